"""What on this host holds a reboot back: the hold file, inhibitors, polkit, alerts, and the programs in blockers.d.

Programs and Prometheus cost something, so while no reboot is near they are asked every five minutes only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from lockd import alerts, sessions
from lockd.gates import Blocker
from lockd.hooks import Outcome, programs, run_program
from lockd.local_settings import AlertSettings, HookSettings
from lockd.permission import Permission
from updated.common.bus import Bus
from updated.common.clock import Clock
from updated.common.durable import read_bounded

HOLD_LIMIT = 1024  # bytes read of the hold file
KEPT_SECS = 300.0  # how long an answer holds while no reboot is near


def held_by_file(path: Path) -> tuple[Blocker, ...]:
    """Return the blocker that a hold file is; what it says is the reason."""
    try:
        text = read_bounded(path, HOLD_LIMIT).decode(errors="replace").strip()
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():  # a link that leads nowhere holds too
            return ()
        text = f"can't be read ({error})"  # it is there: it holds
    return (Blocker("hold", text or f"{path} is there", f"{path} is removed"),)


class Blockers:
    """Everything local that may say no, asked together."""

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        settings: tuple[HookSettings, AlertSettings],
        env: Mapping[str, str],
        *,
        permission: Permission | None = None,  # none: the reboot doesn't go through logind
    ) -> None:
        self._clock, self._bus, self._env, self._permission = clock, bus, dict(env), permission
        self._hooks, self._alerts = settings
        self._folders = [folder / "blockers.d" for folder in self._hooks.dirs]
        self._kept: tuple[float, tuple[Blocker, ...]] | None = None

    async def look(self, env: Mapping[str, str], *, near: bool) -> tuple[Blocker, ...]:
        """Return who says no now; `near` tells that a reboot would follow, so that no old answer counts."""
        now = self._clock.monotonic()
        if near or self._kept is None or now - self._kept[0] >= KEPT_SECS:
            self._kept = (now, await self._ask({**self._env, **env}))
        inhibitors = await sessions.inhibitors(self._bus)
        permission = await self._permission.look() if self._permission and not inhibitors else ()
        return (*inhibitors, *permission, *self._kept[1])

    def forget(self) -> None:
        """Ask everybody anew at the next look."""
        self._kept = None
        if self._permission is not None:
            self._permission.forget()

    async def _ask(self, env: Mapping[str, str]) -> tuple[Blocker, ...]:
        try:
            paths = programs(self._folders)
        except OSError as error:
            return (Blocker("blockers.d", f"can't be listed: {error}", "it can be listed, or hooks.dirs is corrected"),)
        timeout = self._hooks.blocker_timeout_secs
        limits = {**env, "LOCKD_EVENT": "blocker", "LOCKD_TIMEOUT_SECS": str(int(timeout))}
        outcomes = await asyncio.gather(*(run_program(path, timeout_secs=timeout, env=limits) for path in paths))
        return (*_refusals(outcomes), *await self._alerted())

    async def _alerted(self) -> tuple[Blocker, ...]:
        if not self._alerts.url:
            return ()
        problem = await alerts.ask(self._alerts)
        ends = f"the query comes back empty: {self._alerts.query}"
        return (Blocker("alerts", problem, ends, "whoever ends the alerts"),) if problem else ()


def _refusals(outcomes: Sequence[Outcome]) -> tuple[Blocker, ...]:
    return tuple(
        Blocker(
            f"blockers.d/{one.name}", f"{one.words} ({one.problem})" if one.words else one.problem, "it ends with 0"
        )
        for one in outcomes
        if one.problem
    )
