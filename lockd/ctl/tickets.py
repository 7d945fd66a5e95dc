"""The commands that speak to the tickets themselves: status, machines, lock, unlock, set-max and the like."""

from __future__ import annotations

import argparse
import os
import pwd
import socket
from collections.abc import Awaitable, Callable

from lockd.config import Settings
from lockd.ctl import show
from lockd.errors import ErrorCode, RefusedError
from lockd.machines import Known
from lockd.semaphore import Semaphore
from lockd.status import group_document, machines_document
from lockd.tickets import printable, share_of
from lockd.wiring import make_registry, require_semaphore
from updated.common import cli
from updated.common.clock import SystemClock

Command = Callable[[Semaphore, Settings, argparse.Namespace], Awaitable[int]]


async def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run one of the commands.

    Raises:
        LockdError: it failed or was refused.
    """
    semaphore = require_semaphore(settings, SystemClock())
    try:
        return await COMMANDS[arguments.command](semaphore, settings, arguments)
    finally:
        await semaphore.store.close()


async def _status(semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    document = group_document(settings.group, await semaphore.read(), SystemClock().now())
    if arguments.json:
        cli.print_json(document)
    else:
        print(show.group_lines(document))
    return cli.Exit.DONE


async def _machines(semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    known = await _known(settings)
    document = machines_document(known, await semaphore.read(), SystemClock().now())
    if arguments.json:
        cli.print_json(document)
    else:
        print(show.machines_lines(document))
    return cli.Exit.DONE


async def _known(settings: Settings) -> tuple[Known, ...]:
    registry = make_registry(settings)
    if registry is None:
        return ()
    try:
        return await registry.read()
    finally:
        await registry.close()


async def _lock(semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    machine_id = arguments.id or semaphore.identity.machine_id
    await semaphore.lock_by_hand(machine_id)
    return await _done(f"{machine_id} holds a slot of group {settings.group}.", semaphore, settings, arguments)


async def _unlock(semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    machine_id = semaphore.identity.machine_id if arguments.id is None else arguments.id
    ticket = await semaphore.unlock_by_hand(machine_id, force=arguments.force, by=_operator(), reason=arguments.reason)
    was = show.phase_since(ticket.claim.phase.value, ticket.claim.since)
    return await _done(printable(f"{machine_id} ({was}) has no ticket any more."), semaphore, settings, arguments)


async def _set_max(semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    limit, percent = arguments.max
    known, source = 0, ""
    if percent:
        known = len(await _known(settings))
        if not known:
            raise RefusedError(
                ErrorCode.NO_TICKETS, f"no machine of group {settings.group} is known, so there is nothing to count",
                hint="Each registers when its lockd runs with strategy etcd; `lockctl machines` lists them.",
            )  # fmt: skip
        limit, source = share_of(known, percent), f", {percent}% of {known} machines known"
    before = await semaphore.set_max(limit, percent=percent, known=known)
    text = f"max of group {settings.group}: {limit}{source} (was {before.settings.max})"
    return await _done(text, semaphore, settings, arguments)


async def _set_policy(semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    await semaphore.set_policy(min_interval_secs=arguments.min_interval_secs, overdue_budget=arguments.overdue)
    text = f"Policy of group {settings.group} is set; `lockctl status` shows it."
    return await _done(text, semaphore, settings, arguments)


async def _pause(semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    await semaphore.pause(by=_operator(), reason=arguments.reason)
    return await _done(f"Group {settings.group} is paused.", semaphore, settings, arguments)


async def _resume(semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    await semaphore.resume()
    return await _done(f"Group {settings.group} goes on.", semaphore, settings, arguments)


async def _done(text: str, semaphore: Semaphore, settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.json:
        return await _status(semaphore, settings, arguments)
    print(text)
    return cli.Exit.DONE


def _operator() -> str:
    """Return who pauses: the person behind sudo when there is one, at this host."""
    try:
        user = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container without a passwd entry
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


COMMANDS: dict[str, Command] = {
    "status": _status,
    "machines": _machines,
    "lock": _lock,
    "unlock": _unlock,
    "set-max": _set_max,
    "set-policy": _set_policy,
    "pause": _pause,
    "resume": _resume,
}
