"""A clock that a test sets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class MovingClock:
    """Wall and monotonic time that move together, by `advance` only; sleeping waits for that."""

    def __init__(self, now: datetime = datetime(2026, 5, 5, 12, tzinfo=UTC)) -> None:
        self._start = self._now = now
        self._moved = asyncio.Condition()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    def since_boot(self) -> float:
        return self.monotonic()

    def advance(self, secs: float) -> None:
        self._now += timedelta(seconds=secs)

    async def sleep(self, secs: float) -> None:
        """Move on by itself, so that nothing waits in vain."""
        self.advance(secs)
        await asyncio.sleep(0)
