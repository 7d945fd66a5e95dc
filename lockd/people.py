"""The countdown for those who are logged in: they are told, reminded, and the reboot goes on when it has run out.

It starts when nothing else is in the way but the ticket, and starts anew when something got in the way meanwhile; no
slot is held while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from lockd.gates import Blocker
from lockd.local_settings import SessionSettings
from lockd.sessions import Session, names, reminders_due, sessions, wall_text
from updated.common.bus import Bus, BusCallError, BusError
from updated.common.clock import Clock
from updated.common.log import get_logger
from updated.common.process import run

logger = get_logger("people")

WALL_SECS = 10.0


class People:
    """Those who are logged in at this host."""

    def __init__(self, clock: Clock, bus: Bus, settings: SessionSettings, host: str) -> None:
        self._clock, self._bus, self._settings, self._host = clock, bus, settings, host
        self._began: float | None = None  # monotonic
        self._told_secs = 0.0  # left at the last look

    @property
    def counting(self) -> bool:
        """Whether a countdown is under way or has run out."""
        return self._began is not None

    def reset(self) -> None:
        """Forget the countdown: something else is in the way."""
        self._began = None

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
            self.reset()
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
            await self._tell(left, reason)
        self._told_secs = left
        if left <= 0:
            return ()
        ends_at = self._clock.now() + timedelta(seconds=left)
        words = f"logged in: {names(found)}; the reboot comes in {left:.0f} s"
        return (Blocker("sessions", words, "the countdown ends, or they log out", names(found), ends_at),)

    async def _tell(self, left: float, reason: str) -> None:
        text, argv = wall_text(left, reason, self._host), self._settings.wall_command
        logger.info("people-told", text=text)
        if not argv:
            return
        try:
            done = await run([*argv, text], timeout_secs=WALL_SECS)
            problem = "" if done.returncode == 0 else done.stderr.strip()[:200] or f"ended with {done.returncode}"
        except OSError as error:
            problem = str(error)
        if problem:
            logger.warning("people-not-told", command=argv[0], problem=problem)
