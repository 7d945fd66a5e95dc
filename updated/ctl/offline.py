"""The commands that only look, answered without the daemon: from the settings, its state and the boot loader's data."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from updated.agent.offline import Offline, look
from updated.agent.status import as_dict, error_dict, explain
from updated.common import cli
from updated.common.clock import SystemClock, rfc3339
from updated.common.process import run
from updated.common.text import printable
from updated.config import load
from updated.ctl import show
from updated.errors import LocalError, UpdateError

UNIT = "updated.service"
PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "ExecMainStatus", "UnitFileState")
SYSTEMD_SECS = 10.0
COMMANDS = ("status", "explain", "slots", "history")


async def answer(arguments: argparse.Namespace, unreachable: LocalError) -> int:
    """Print what the files tell, then that and why the daemon doesn't answer.

    The exit code stays that of an agent that can't be reached, so that no script takes this for the agent's word.
    """
    at = rfc3339(SystemClock().now())
    try:
        found = look(load(None, os.environ).settings, at)
    except UpdateError as error:  # of the settings: nothing else can be known without them
        found = Offline(problems=[error])
        found.view.last_error = error_dict(error, at)
    why = await _why_not_running()
    printers: dict[str, Callable[[], tuple[Any, str]]] = {
        "status": lambda: _status(found, why),
        "explain": lambda: _explain(found, why),
        "slots": lambda: (found.slots, show.slots_lines(found.slots, found.notes) if found.slots else ""),
        "history": lambda: (
            found.memory.history,
            show.history_lines(found.memory.history) if found.memory.history or not found.problems else "",
        ),
    }
    document, lines = printers[arguments.command]()
    if arguments.json:
        cli.print_json(document)
    elif lines:
        print(lines)
    for problem in found.problems if arguments.command in ("slots", "history") else ():  # the others have them in them
        cli.report(problem)
    cli.report_text(f"{unreachable.message}: {why}", unreachable.name, unreachable.hint)
    return cli.Exit.UNREACHABLE


def tell_problems() -> None:
    """Say what keeps the agent from running on this host, for the commands that need it."""
    try:
        found = look(load(None, os.environ).settings, rfc3339(SystemClock().now()))
    except UpdateError as error:
        cli.report(error)
        return
    for problem in found.problems:
        cli.report(problem)


def _status(found: Offline, why: str) -> tuple[Any, str]:
    document = as_dict(found.view) | {"blocked_by": f"the agent doesn't run: {why}"}
    return document, show.status_lines(document)


def _explain(found: Offline, why: str) -> tuple[Any, str]:
    permanent = bool(found.problems)
    ends = f"that is put right, then `systemctl start {UNIT}`" if permanent else f"`systemctl start {UNIT}`"
    reasons = [{"what": "not-running", "why": f"the agent doesn't run: {why}", "ends": ends}]
    reasons += [{"what": one.name, "why": one.message, "ends": one.hint} for one in found.problems]
    found.view.last_error = None if found.problems else found.view.last_error
    reasons += [reason for reason in explain(found.view) if reason["what"] != "starting"]
    return {"reasons": reasons, "lockd": None}, show.explain_lines(reasons, None)


async def _why_not_running() -> str:
    """Return how its unit stands, in half a sentence."""
    try:
        done = await run(["systemctl", "show", f"--property={','.join(PROPERTIES)}", UNIT], timeout_secs=SYSTEMD_SECS)
    except OSError as error:
        return f"systemctl can't be started: {error.strerror}"
    values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return _standing([values.get(name, "") for name in PROPERTIES])


def _standing(values: Sequence[str]) -> str:
    load_state, active, sub, result, status, enabled = map(printable, values)
    if not load_state:
        return "systemd can't be asked about its unit"
    if load_state != "loaded":
        return f"its unit {UNIT} is {load_state}"
    if active == "active":
        return f"its unit is {active} ({sub}), but it isn't on the bus"
    if sub == "auto-restart" or active == "failed":
        how = f"exit code {status}" if result == "exit-code" else result
        return f"its unit has failed ({how})" if active == "failed" else f"its unit is started again after {how}"
    return f"its unit is {active}, and {enabled or 'not enabled'}"
