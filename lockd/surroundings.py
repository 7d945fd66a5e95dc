"""What the coordinator asks of its own host at each look: blockers, people, hooks, and the turn in a window."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, TypeVar

from lockd import gates, message_ids, turns
from lockd.agent import AgentView
from lockd.blockers import held_by_file
from lockd.errors import LockdError
from lockd.means import Means, Policy
from lockd.setback import Setback
from lockd.windows import Outlook
from updated.common.log import get_logger
from updated.common.notify import Notifier

T = TypeVar("T")
logger = get_logger("surroundings")
WATCHDOG_SHARE = 3


async def kept_alive(notifier: Notifier, work: Coroutine[Any, Any, T], *, limit_secs: float = math.inf) -> T:
    """Wait for work that may take long, and feed the watchdog meanwhile, for so many seconds."""
    task, watchdog, fed_secs = asyncio.ensure_future(work), notifier.watchdog_secs, 0.0
    try:
        while not (await asyncio.wait([task], timeout=watchdog / WATCHDOG_SHARE if watchdog else None))[0]:
            fed_secs += (watchdog or 0.0) / WATCHDOG_SHARE
            if fed_secs < limit_secs:
                notifier.watchdog()
        return task.result()
    finally:
        task.cancel()


def need_of(seen: AgentView, *, asked: bool, with_tickets: bool) -> gates.Need:
    """Return whether a reboot is wanted; `asked` tells that somebody did with `lockctl reboot`."""
    if seen.healthy is None and with_tickets:
        # a host whose health nobody tells would never give its slot back
        return gates.Need(False, seen.need_reboot or asked, seen.problem)
    if seen.need_reboot:
        return gates.Need(True, True, f"version {seen.version_new} waits for the reboot")
    if asked:
        return gates.Need(seen.known, True, "somebody asked with `lockctl reboot`" if seen.known else seen.problem)
    return gates.Need(seen.known, False, "no reboot is wanted" if seen.known else seen.problem)


class Surroundings:
    """This host around its coordinator; without `means.local` only the hold file is looked at."""

    def __init__(self, policy: Policy, means: Means, machine_id: str) -> None:
        self._policy, self._means, self._machine_id = policy, means, machine_id
        self._local = means.local
        self._setback = Setback(policy.reboot_retry_secs)
        self._missed: tuple[datetime, int] | None = None  # windows that went by, as counted for one opening

    def forgive(self) -> None:
        """A human asks: what failed is tried again at once, and everybody is asked anew."""
        self._setback.clear()
        if self._local is not None:
            self._local.blockers.forget()

    def set_back(self, name: str, error: LockdError, version_to: str) -> None:
        """What was tried for the reboot failed: that blocks for a while, longer each time (`lockd.setback`)."""
        now, monotonic = self._means.clock.now(), self._means.clock.monotonic()
        secs = self._setback.add(name, error, version=version_to, now=now, monotonic=monotonic)
        logger.error(
            "set-back", message_id=message_ids.SET_BACK, by=name, problem=error.message, hint=error.hint,
            again_in_secs=round(secs), version_to=version_to,
        )  # fmt: skip
        if self._local is not None:
            self._local.blockers.forget()

    def went_well(self) -> None:
        """The reboot was accepted: what failed before doesn't count any more."""
        self._setback.clear()

    async def leave(self) -> None:
        """This host is looked at no longer with these settings: nobody is counted down any more."""
        if self._local is not None:
            await self._local.people.reset()

    async def blockers(self, seen: AgentView, version_to: str, *, near: bool) -> tuple[gates.Blocker, ...]:
        """Return who says no; `near` tells that a reboot would follow, `version_to` is what it would start."""
        found = held_by_file(self._policy.hold_file)
        found += self._setback.blocker(version_to, self._means.clock.monotonic())
        if self._local is None:
            return found
        return found + await self._alive(self._local.blockers.look(self._env(seen, version_to), near=near))

    def turn(self, outlook: Outlook, now: datetime, *, at_once: bool) -> datetime | None:
        """Return when the turn comes of this host, which waits; None when there is nothing to wait for."""
        local, policy = self._local, self._policy
        if local is None:
            return None
        since, opened = local.waiting.begin(now), outlook.since
        if at_once or policy.spread_secs <= 0 or not outlook.open or opened is None or since >= opened:
            return None
        if self._missed is None or self._missed[0] != opened:
            self._missed = opened, turns.missed_windows(policy.windows, policy.blackouts, since, now)
        return turns.turn_in(
            outlook, fraction=turns.fraction_of(self._machine_id), spread_secs=policy.spread_secs,
            needed_secs=policy.min_remaining_secs, missed=self._missed[1],
        )  # fmt: skip

    def rest(self) -> None:
        """No reboot is wanted: the next need waits from then on."""
        self._setback.clear()
        if self._local is not None:
            self._local.waiting.end()

    async def people(self, seen: AgentView, version_to: str, reason: str) -> tuple[gates.Blocker, ...]:
        """Return logged-in people as a blocker, after telling them; nobody waits for them in a drained host."""
        if self._local is None:
            return ()
        found = await self._alive(self._local.people.hold_back(reason))
        if found:
            await self._alive(self._local.drain.cancel(self._env(seen, version_to)))
        return found

    async def drain(self, seen: AgentView, version_to: str) -> None:
        """Run pre-reboot.d; when it fails, that blocks for a while.

        Raises:
            LockdError: a hook failed.
        """
        if self._local is None:
            return
        try:
            await self._alive(self._local.drain.before(self._env(seen, version_to)))
        except LockdError as error:
            self.set_back("drain", error, version_to)
            raise

    async def after_boot(self, seen: AgentView, version_to: str = "") -> str:
        """Run post-boot.d once after a reboot of ours; return what stands against going on."""
        return "" if self._local is None else await self._alive(self._local.drain.after(self._env(seen, version_to)))

    async def stand_down(self, seen: AgentView, version_to: str, *, still_waiting: bool) -> str:
        """The reboot isn't near any more: bring back what was drained; return what stands against that."""
        if self._local is None:
            return ""
        return await self._alive(self._local.stand_down(self._env(seen, version_to), still_waiting=still_waiting))

    def _env(self, seen: AgentView, version_to: str) -> dict[str, str]:
        """Return what the administrator's programs are told."""
        return dict(self._local.env if self._local else {}) | {
            "LOCKD_VERSION_FROM": seen.version_booted,
            "LOCKD_VERSION_TO": version_to,
            "LOCKD_SLOT": seen.slot_booted,
            "LOCKD_SLOT_TARGET": seen.slot_target,
        }

    async def _alive(self, work: Coroutine[Any, Any, T]) -> T:
        return await kept_alive(self._means.notifier, work)
