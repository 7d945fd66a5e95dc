"""The countdown for those who are logged in: they are told, reminded, and the reboot goes on when it has run out.

It starts when nothing else is in the way but the ticket, and starts anew when something got in the way meanwhile; no
slot is held while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from lockd.announcement import make_announcement
from lockd.gates import Blocker
from lockd.local_settings import SessionSettings
from lockd.sessions import Session, names, reminders_due, sessions
from updated.common.bus import Bus, BusCallError, BusError
from updated.common.clock import Clock
from updated.common.log import get_logger

logger = get_logger("people")


class People:
    """Those who are logged in at this host."""

    def __init__(self, clock: Clock, bus: Bus, settings: SessionSettings, host: str) -> None:
        self._clock, self._bus, self._settings = clock, bus, settings
        self._announcement = make_announcement(clock, bus, settings, host)
        self._began: float | None = None  # monotonic
        self._told_secs = 0.0  # left at the last look

    @property
    def counting(self) -> bool:
        """Whether a countdown is under way or has run out."""
        return self._began is not None

    async def reset(self) -> None:
        """Forget the countdown: something else is in the way."""
        self._began = None
        await self._announcement.withdraw()

    async def hold_back(self, reason: str) -> tuple[Blocker, ...]:
        """Return the blocker that logged-in people are now; tell them when it is time to."""
        if self._settings.policy == "ignore":
            return ()
        try:
            found = await sessions(self._bus)
        except (BusError, BusCallError) as error:
            if isinstance(error, BusError) and self._settings.policy != "block":
                return ()  # no logind, or it is on its way down: then it doesn't reboot either
            return (Blocker("sessions", f"logind doesn't tell who is logged in: {error}", "logind answers"),)
        if not found:
            await self.reset()
            return ()
        if self._settings.policy == "block":
            return (Blocker("sessions", f"logged in: {names(found)}", "they log out", names(found)),)
        return await self._count_down(found, reason)

    async def _count_down(self, found: Sequence[Session], reason: str) -> tuple[Blocker, ...]:
        now, first = self._clock.monotonic(), self._began is None
        if self._began is None:
            self._began, self._told_secs = now, self._settings.grace_secs
        left = self._began + self._settings.grace_secs - now
        if first or (left > 0 and reminders_due(self._told_secs, left)):
            await self._tell(left, reason, first=first)
        self._told_secs = left
        if left <= 0:
            return ()
        ends_at = self._clock.now() + timedelta(seconds=left)
        words = f"logged in: {names(found)}; the reboot comes in {left:.0f} s"
        return (Blocker("sessions", words, "the countdown ends, or they log out", names(found), ends_at),)

    async def _tell(self, left: float, reason: str, *, first: bool) -> None:
        problem = await self._announcement.tell(reason, left, first=first)
        logger.info("people-told", why=reason, left_secs=round(left), by=self._settings.announce)
        if problem:
            logger.warning("people-not-told", problem=problem)
