"""Whether logind would reboot this host for lockd, asked before a slot is taken and anything is drained; and why not.

The daemon has no privileges: logind asks polkit about it. `CanReboot` (org.freedesktop.login1(5)) says what polkit
would answer and reboots nothing, so that a host without polkit, or with a rule that says no, isn't drained in vain.
"""

from __future__ import annotations

from datetime import timedelta

from lockd import message_ids
from lockd.gates import Blocker
from lockd.polkit import ANSWERS, explain_error, is_polkit_there
from updated.common.bus import Bus, BusCallError, BusError
from updated.common.clock import Clock
from updated.common.log import get_logger
from updated.common.reboot import LOGIND

logger = get_logger("permission")

KEPT_SECS = 300.0  # how long a yes holds
FIRST_SECS, LIMIT_SECS = 60.0, 600.0  # to the next question after a no: doubled each time


class Permission:
    """Asks logind, and remembers the answer for a while."""

    def __init__(self, clock: Clock, bus: Bus) -> None:
        self._clock, self._bus = clock, bus
        self._again_at: float | None = None  # monotonic; none: nothing is known
        self._wait_secs = 0.0  # after the last no; 0: it was a yes
        self._found: tuple[Blocker, ...] = ()

    def forget(self) -> None:
        """Ask again at the next look: somebody may have repaired it, or the answer proved wrong."""
        self._again_at, self._wait_secs = None, 0.0

    async def look(self) -> tuple[Blocker, ...]:
        """Return the blocker that a no is; without shutdown inhibitors, whose no would be theirs."""
        now = self._clock.monotonic()
        if self._again_at is not None and now < self._again_at:
            return self._found
        problem = await self._ask()
        if problem is None:
            self._found, self._wait_secs, self._again_at = (), 0.0, now + KEPT_SECS
            return ()
        if self._wait_secs == 0:
            logger.warning(
                "reboot-not-permitted", message_id=message_ids.REBOOT_NOT_PERMITTED, problem=problem[0], hint=problem[1]
            )
        self._wait_secs = min(self._wait_secs * 2 or FIRST_SECS, LIMIT_SECS)
        self._again_at = now + self._wait_secs
        ends_at = self._clock.now() + timedelta(seconds=self._wait_secs)
        ends = f"somebody does this: {problem[1]}. logind is asked again at {ends_at:%Y-%m-%dT%H:%M:%SZ}"
        self._found = (Blocker("permission", problem[0], ends),)
        return self._found

    async def _ask(self) -> tuple[str, str] | None:
        try:
            (answer,) = await self._bus.call(*LOGIND, "CanReboot")
        except BusCallError as error:
            return explain_error(error, polkit_there=await is_polkit_there(self._bus))
        except BusError as error:
            return f"logind can't be asked: {error}", "look at `systemctl status systemd-logind`"
        if answer == "yes":
            return None
        known = ANSWERS.get(answer) if isinstance(answer, str) else None
        return known or (f"logind answers {answer!r} when it is asked whether it would reboot", "`loginctl --version`")
