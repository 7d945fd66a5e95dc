"""The one place that reads a clock or sleeps; everything else is handed a `Clock`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time, monotonic time, and waiting."""

    def now(self) -> datetime:
        """Return the wall clock as an aware UTC datetime."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards (for deadlines and rates)."""
        ...

    def since_boot(self) -> float:
        """Return the seconds since the kernel started, without those in which the machine was suspended."""
        ...

    async def sleep(self, secs: float) -> None:
        """Wait for `secs` seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the wall clock as an aware UTC datetime."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the kernel's monotonic clock in seconds."""
        return time.monotonic()

    def since_boot(self) -> float:
        """Return CLOCK_MONOTONIC, which Linux counts from the start of the kernel."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

    async def sleep(self, secs: float) -> None:
        """Wait for `secs` seconds without blocking the event loop."""
        await asyncio.sleep(secs)


def rfc3339(moment: datetime) -> str:
    """Write an aware datetime as RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
