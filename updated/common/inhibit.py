"""A delay lock of logind's: a shutdown waits for a moment while something is written that it shouldn't cut off.

For threads: each lock is asked for over a connection of its own, since a bus connection belongs to an event loop. A
host without logind, or without a bus, has no such lock: what is done under it must bear a cut anyway.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from updated.common.bus import BusCallError, BusError, connect
from updated.common.log import get_logger
from updated.common.reboot import LOGIND

TAKE_SECS = 5.0  # a logind that doesn't answer holds nothing up
log = get_logger("inhibit")


class Inhibitor:
    """Takes delay locks in one program's name; logind itself bounds each (InhibitDelayMaxSec=, 5 s by default).

    Args:
        address: of the bus; None for the system bus.
        who: the program, as `systemd-inhibit --list` shows it.
    """

    def __init__(self, address: str | None, who: str) -> None:
        self._address, self._who = address, who

    @contextmanager
    def held(self, why: str) -> Iterator[None]:
        """Hold a lock, where there is one to be had; to be used in a thread without an event loop.

        Args:
            why: a phrase for people.
        """
        lock = asyncio.run(self._take(why))
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)

    async def _take(self, why: str) -> int | None:
        try:
            async with asyncio.timeout(TAKE_SECS):
                bus = await connect(self._address, with_descriptors=True)
                try:
                    return await bus.call_for_descriptor(
                        *LOGIND, "Inhibit", "ssss", ["shutdown", self._who, why, "delay"]
                    )
                finally:
                    await bus.close()
        except (BusError, BusCallError, TimeoutError) as error:
            log.debug("no-inhibitor", why=why, error=str(error))
            return None
