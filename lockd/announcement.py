"""How those who are logged in are told of a reboot to come: by logind, which may write to every terminal, or a command.

A daemon without privileges can't write to the terminals of others: login(1) makes them 0600 (TTYPERM in login.defs(5)
of Debian), and wall(1) leaves out silently what it can't open. logind is root and warns of a shutdown that is scheduled
(org.freedesktop.login1(5)): at once, and each minute of the last ten. So the countdown is scheduled there as
`dry-reboot`, which ends by itself and reboots nothing. As with shutdown(8), logind lets nobody but root log in for the
last five minutes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from lockd.local_settings import SessionSettings
from lockd.sessions import wall_text
from updated.common.bus import Bus, BusCallError, BusError
from updated.common.clock import Clock
from updated.common.log import get_logger
from updated.common.process import run
from updated.common.reboot import LOGIND

logger = get_logger("announcement")

WALL_SECS = 10.0
MARK = "lockd: "  # how each message of ours begins
OURS, OTHERS = "ours", "others"
DRY = "dry-reboot"
PROPERTIES = "org.freedesktop.DBus.Properties"


class Announcement(Protocol):
    """One way to tell people."""

    async def tell(self, reason: str, left_secs: float, *, first: bool) -> str:
        """Tell them that the reboot comes in so many seconds, and why; return what went wrong, empty if nothing did."""
        ...

    async def withdraw(self) -> None:
        """The reboot doesn't come then: tell them, if that is possible."""
        ...


def make_announcement(clock: Clock, bus: Bus, settings: SessionSettings, host: str) -> Announcement:
    """Return the way that the settings name."""
    if settings.announce == "logind":
        return ScheduledShutdown(clock, bus, host)
    return Command(settings.wall_command if settings.announce == "command" else (), host)


class ScheduledShutdown:
    """logind's own warnings of a scheduled shutdown, which it is only told of."""

    def __init__(self, clock: Clock, bus: Bus, host: str) -> None:
        self._clock, self._bus, self._host = clock, bus, host
        self._scheduled = False

    async def tell(self, reason: str, left_secs: float, *, first: bool) -> str:
        """Schedule at first; the reminders are logind's."""
        if not first:
            return ""
        try:
            if await self._scheduled_by() == OTHERS:
                return "somebody else has scheduled a shutdown of this host, which stays as it is"
            text = f"{MARK}{self._host} reboots: {reason}. Save your work and log out."
            when = self._clock.now() + timedelta(seconds=left_secs)
            await self._bus.call(*LOGIND, "SetWallMessage", "sb", [text, True])
            await self._bus.call(*LOGIND, "ScheduleShutdown", "st", [DRY, int(when.timestamp() * 1_000_000)])
        except (BusCallError, BusError) as error:
            return f"logind doesn't announce it: {error}"
        self._scheduled = True
        return ""

    async def withdraw(self) -> None:
        """Cancel what was scheduled; logind tells that to everybody, too. What is over by then is no error."""
        if not self._scheduled:
            return
        self._scheduled = False
        try:
            if await self._scheduled_by() == OURS:
                await self._bus.call(*LOGIND, "CancelScheduledShutdown")
        except (BusCallError, BusError) as error:
            logger.warning("announcement-not-withdrawn", error=str(error))

    async def _scheduled_by(self) -> str:
        """Tell whose the shutdown is that is scheduled, if one is; a lockd before this one may have made it, too."""
        ((kind, _usec), message) = [await self._property(name) for name in ("ScheduledShutdown", "WallMessage")]
        if not kind:
            return ""
        return OURS if str(message).startswith(MARK) else OTHERS

    async def _property(self, name: str) -> Sequence[object]:
        (variant,) = await self._bus.call(LOGIND[0], LOGIND[1], PROPERTIES, "Get", "ss", [LOGIND[2], name])
        value: Sequence[object] = variant.value
        return value


class Command:
    """A program of the administrator's, which gets the text as its last argument; without one nobody is told."""

    def __init__(self, argv: Sequence[str], host: str) -> None:
        self._argv, self._host = argv, host

    async def tell(self, reason: str, left_secs: float, *, first: bool) -> str:
        """Run it."""
        if not self._argv:
            return ""
        try:
            done = await run([*self._argv, wall_text(left_secs, reason, self._host)], timeout_secs=WALL_SECS)
        except OSError as error:
            return f"{self._argv[0]}: {error}"
        if done.returncode == 0:
            return ""
        return f"{self._argv[0]}: {done.stderr.strip()[:200] or f'ended with {done.returncode}'}"

    async def withdraw(self) -> None:
        """Do nothing: the reminders stop."""
