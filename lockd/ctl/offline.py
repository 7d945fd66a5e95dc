"""What can be told without the daemon, or without settings that this user may read."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from lockd import gates
from lockd import windows as windows_room
from lockd.blockers import held_by_file
from lockd.config import Loaded
from lockd.ctl import daemon, show
from lockd.errors import ErrorCode, LocalError, LockdError
from lockd.status import explain_document, window_document
from lockd.wholeness import NO_STRATEGY
from updated.common import cli
from updated.common.clock import SystemClock, rfc3339

START = "lockd is started: `systemctl status lockd` and `journalctl -u lockd` tell why it isn't running"
UNKNOWN = "not known while lockd isn't running"


async def explain(loaded: Loaded, arguments: argparse.Namespace) -> int:
    """Print the chain of gates; without the daemon, what the settings and this host tell of it.

    Raises:
        LockdError: the daemon can't be asked, for another reason than that it isn't there.
    """
    try:
        return _print_gates(await daemon.gates(loaded.settings.bus_address), arguments)
    except LockdError as error:
        if error.code is not ErrorCode.UNREACHABLE:
            raise
        _print_gates(explain_document(_offline_gates(loaded, error)), arguments)
        cli.report(error)
        return cli.Exit.UNREACHABLE


async def explain_without_settings(address: str | None, arguments: argparse.Namespace, wrong: LockdError) -> int:
    """Print the chain of gates of the daemon, which has settings; without it, why these can't be read.

    Raises:
        LockdError: the daemon can't be asked, for another reason than that it isn't there.
    """
    try:
        return _print_gates(await daemon.gates(address), arguments)
    except LockdError as error:
        if error.code is not ErrorCode.UNREACHABLE:
            raise
    closed = gates.Gate("settings", gates.State.CLOSED, wrong.message, wrong.hint, who=gates.HOST)
    _print_gates(explain_document([closed]), arguments)
    raise wrong


def _offline_gates(loaded: Loaded, error: LockdError) -> list[gates.Gate]:
    """Return the gates as far as they can be seen from here; the daemon's absence is the one that blocks."""
    now, settings = SystemClock().now(), loaded.settings
    outlook = windows_room.look(loaded.windows, now, loaded.blackouts)
    held = held_by_file(settings.hold_file)
    facts = gates.Facts(
        now=now, need=gates.Need(True, True, UNKNOWN), strategy=settings.strategy, blockers=held, outlook=outlook,
        min_remaining_secs=settings.min_remaining_secs, ticket=None, settings_problem=loaded.doubt,
    )  # fmt: skip
    seen = {gate.gate: gate for gate in (gates.strategy_gate(facts), gates.window_gate(facts))}
    if held:
        seen["blockers"] = gates.blockers_gate(facts)
    unknown = [gates.Gate(name, gates.State.NOT_ASKED, UNKNOWN) for name in ("need", "blockers", "ticket")]
    chain = {gate.gate: gate for gate in unknown} | seen
    order = ("need", "strategy", "blockers", "window", "ticket")
    first = gates.Gate("daemon", gates.State.CLOSED, error.message, START, who=gates.HOST)
    return [first, *(chain[name] for name in order)]


def _print_gates(chain: list[dict[str, Any]], arguments: argparse.Namespace) -> int:
    if arguments.json:
        cli.print_json(chain)
    else:
        print(show.gates_lines(chain))
    return cli.Exit.DONE


async def windows(loaded: Loaded, arguments: argparse.Namespace) -> int:
    """Print how the windows stand that are in force; without the daemon those of the settings, and say so.

    Raises:
        LockdError: the daemon can't be asked, for another reason than that it isn't there.
    """
    try:
        return await _windows_in_force(loaded.settings.bus_address, arguments)
    except LockdError as error:
        if error.code is not ErrorCode.UNREACHABLE:
            raise
    print("note: lockd isn't running; this is what its settings say", file=sys.stderr)
    return await windows_of(loaded, arguments)


async def windows_of(loaded: Loaded, arguments: argparse.Namespace) -> int:
    """Print how the windows of these settings stand, in force or not.

    Raises:
        LocalError: CONFIG; the policy may not be all of it, so that its windows are none.
    """
    if loaded.doubt and NO_STRATEGY not in loaded.doubt:
        raise LocalError(ErrorCode.CONFIG, loaded.doubt, hint="Correct lockd.toml; nothing reboots by it until then.")
    at = arguments.at or SystemClock().now()
    document = window_document(windows_room.look(loaded.windows, at, loaded.blackouts))
    coming = windows_room.next_openings(loaded.windows, at, arguments.next, loaded.blackouts)
    listed = [{"start": rfc3339(interval.start), "end": rfc3339(interval.end)} for interval in coming]
    return _print_windows(document | {"next": listed, "problem": None}, arguments)


async def _windows_in_force(address: str | None, arguments: argparse.Namespace) -> int:
    at = arguments.at.isoformat() if arguments.at else ""
    return _print_windows(await daemon.ask(address, "Windows", "su", at, arguments.next), arguments)


def _print_windows(document: dict[str, Any], arguments: argparse.Namespace) -> int:
    coming, problem = document.pop("next"), document.pop("problem")
    if arguments.json:
        more = {"next": coming} if arguments.next else {}
        cli.print_json(document | more | ({"problem": problem} if problem else {}))
    elif problem:
        print(f"closed ({problem})")
    else:
        print(show.window_lines(document, [(one["start"], one["end"]) for one in coming]))
    return cli.Exit.DONE


async def _status(address: str | None, arguments: argparse.Namespace) -> int:
    document = await daemon.ask(address, "Group")
    print(json.dumps(document, indent=2, ensure_ascii=False) if arguments.json else show.group_lines(document))
    return cli.Exit.DONE


async def _machines(address: str | None, arguments: argparse.Namespace) -> int:
    document = await daemon.ask(address, "Machines")
    print(json.dumps(document, indent=2, ensure_ascii=False) if arguments.json else show.machines_lines(document))
    return cli.Exit.DONE


# for users who may not read the settings: the daemon answers what root's command finds out itself
READINGS: dict[str, Callable[[str | None, argparse.Namespace], Coroutine[Any, Any, int]]] = {
    "status": _status,
    "machines": _machines,
    "windows": _windows_in_force,
}
