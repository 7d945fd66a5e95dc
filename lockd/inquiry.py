"""What everybody on this host may ask of the group: the same documents as `lockctl` makes for root, from the daemon.

Settings may hold etcd's password, so that other users can't read them; what the tickets say is no secret. An answer
is kept for some seconds, so that whoever asks often asks this process and not the store.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from lockd import windows
from lockd.errors import ErrorCode, LocalError, RefusedError
from lockd.means import Means, Policy
from lockd.registry import Registry
from lockd.status import group_document, machines_document, window_document
from updated.common.clock import rfc3339

KEPT_SECS = 10.0
OPENINGS_LIMIT = 1000  # of one answer


class Inquiry:
    """Answers by the settings in force; `adopt` changes them."""

    def __init__(self, policy: Policy, means: Means, registry: Registry | None) -> None:
        self._policy, self._means, self._registry = policy, means, registry
        self._kept: dict[str, tuple[float, Any]] = {}  # monotonic
        self._turn = asyncio.Lock()

    def adopt(self, policy: Policy, means: Means, registry: Registry | None) -> None:
        """Answer by other settings from now on."""
        self._policy, self._means, self._registry = policy, means, registry
        self._kept.clear()

    async def group(self) -> dict[str, Any]:
        """Return what `lockctl status --json` prints.

        Raises:
            LockdError: the strategy has no tickets, or the store can't be reached or understood.
        """
        return dict(await self._fresh("group"))

    async def machines(self) -> list[dict[str, Any]]:
        """Return what `lockctl machines --json` prints.

        Raises:
            LockdError: as `group`.
        """
        return list(await self._fresh("machines"))

    def windows(self, at: str, count: int) -> dict[str, Any]:
        """Return what `lockctl windows --next COUNT --json` prints for a moment (RFC 3339; empty: now).

        While the settings are wrong there is no window; `problem` says why.

        Raises:
            LocalError: USAGE; the moment isn't one, or too many openings are asked for.
        """
        moment = _moment(at) if at else self._means.clock.now()
        if count > OPENINGS_LIMIT:
            raise _usage(f"{count} openings are more than {OPENINGS_LIMIT}")
        problem = self._means.settings_problem()
        if problem:
            closed = {"open": False, "since": None, "until": None, "next_open": None}
            return closed | {"next": [], "problem": problem}
        policy = self._policy
        document = window_document(windows.look(policy.windows, moment, policy.blackouts))
        coming = windows.next_openings(policy.windows, moment, count, policy.blackouts)
        listed = [{"start": rfc3339(one.start), "end": rfc3339(one.end)} for one in coming]
        return document | {"next": listed, "problem": None}

    async def _fresh(self, what: str) -> Any:  # noqa: ANN401 - a JSON document
        async with self._turn:  # who asks meanwhile gets the same answer
            now = self._means.clock.monotonic()
            kept = self._kept.get(what)
            if kept is None or now - kept[0] >= KEPT_SECS:
                kept = self._kept[what] = (
                    now,
                    await (self._read_group() if what == "group" else self._read_machines()),
                )
            return kept[1]

    async def _read_group(self) -> dict[str, Any]:
        semaphore = self._means.semaphore
        if semaphore is None:
            raise RefusedError(
                ErrorCode.NO_TICKETS, f"strategy {self._policy.strategy} has no tickets",
                hint="Set strategy etcd or local in lockd.toml.",
            )  # fmt: skip
        return group_document(self._policy.group, await semaphore.read(), self._means.clock.now())

    async def _read_machines(self) -> list[dict[str, Any]]:
        semaphore = self._means.semaphore
        if semaphore is None:
            return []
        known = await self._registry.read() if self._registry else ()
        return machines_document(known, await semaphore.read(), self._means.clock.now())


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise _usage(f"{text[:40]!r} is no time") from error
    if moment.tzinfo is None:
        raise _usage(f"{text[:40]!r} has no zone")
    return moment


def _usage(message: str) -> LocalError:
    return LocalError(ErrorCode.USAGE, message, hint="Write a time like 2026-01-31T02:00:00Z.")
