"""The update-ctl command: arguments in, documents or lines out."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from updated.common import cli
from updated.common.errors import OperatorError
from updated.config import load, shown
from updated.ctl import offline, show
from updated.ctl.by_hand import apply, install, roll_back
from updated.ctl.client import Daemon, Request, open_daemon
from updated.ctl.watch import follow, wait_settled
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.keys import read_keyring


def main() -> None:
    """Run the `update-ctl` command."""
    cli.run(_main, exit_code=exit_code)


def exit_code(error: OperatorError) -> cli.Exit:
    """Return the exit code that an error means to a script."""
    if isinstance(error, RefusedError):
        return cli.Exit.REFUSED
    if error.code is ErrorCode.USAGE:
        return cli.Exit.USAGE
    return cli.Exit.UNREACHABLE if error.code is ErrorCode.UNREACHABLE else cli.Exit.FAILED


def _main() -> int:
    arguments = _parser().parse_args()
    if arguments.command == "config":
        return _config(arguments)
    commands: dict[str, Callable[[Daemon, argparse.Namespace], Awaitable[int]]] = {
        "status": _status,
        "check": _check,
        "update": _update,
        "apply": apply,
        "rollback": roll_back,
        "watch": _watch,
        "explain": _explain,
        "history": _history,
        "slots": _slots,
        "reset": _reset,
        "reload": _reload,
    }
    return asyncio.run(_with_daemon(commands[arguments.command], arguments))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "update-ctl",
        "Shows and steers this host's update agent.",
        "update-ctl status --json | jq -r .version_new",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("status", "what the agent is doing, and what came of the last attempt"),
        ("check", "look whether there is a release; exits with 0 up to date, 10 available, 13 failed"),
        ("update", "check, install, make the new slot the next to boot"),
        ("apply", "install a payload by hand, from a file or a URL; no server takes part"),
        ("watch", "follow the agent live: state, progress, rate, time left"),
        ("explain", "why this host isn't updating or rebooting, and what would end that"),
        ("history", "what was done on this host"),
        ("slots", "both slots, as the boot loader's data have them"),
        ("rollback", "make the other slot, which booted well before, the next to boot"),
        ("reset", "forget failures; give an installed update up"),
        ("reload", "look at the settings again without ending the agent"),
        ("config", "where each setting comes from; whether the files are right"),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--json", action="store_true", help="print JSON")
        if name == "status":
            command.add_argument("--exit-code", action="store_true", help="exit as `check` does")
        if name == "apply":
            command.add_argument("payload", metavar="FILE|URL", help="its packages are looked for beside it")
        if name in ("update", "apply"):
            command.add_argument("--wait", action="store_true", help="show progress, and wait for the end")
        if name == "rollback":
            command.add_argument("--yes", action="store_true", help="don't ask")
        if name == "config":
            command.add_argument("action", choices=("show", "check"))
            command.add_argument("--config", type=Path, metavar="FILE", help="read this file instead")
    return parser


async def _with_daemon(
    command: Callable[[Daemon, argparse.Namespace], Awaitable[int]], arguments: argparse.Namespace
) -> int:
    try:
        async with open_daemon(_bus_address()) as daemon:
            return await command(daemon, arguments)
    except LocalError as error:
        if error.code is ErrorCode.UNREACHABLE:
            if arguments.command in offline.COMMANDS:
                return await offline.answer(arguments, error)
            offline.tell_problems()
        raise


def _bus_address() -> str | None:
    """Return where the agent is; it may still run with settings that somebody has broken since it read them."""
    if os.environ.get("UPDATED_BUS_ADDRESS"):
        return os.environ["UPDATED_BUS_ADDRESS"]
    try:
        return load(None, os.environ).settings.bus_address
    except LocalError:
        return None


async def _status(daemon: Daemon, arguments: argparse.Namespace) -> int:
    status = await daemon.document("Status")
    if arguments.json:
        cli.print_json(status)
    else:
        print(show.status_lines(status))
    return show.status_code(status) if arguments.exit_code else cli.Exit.DONE


async def _check(daemon: Daemon, arguments: argparse.Namespace) -> int:
    status = await wait_settled(daemon, Request("Check"))
    if arguments.json:
        cli.print_json(status)
    else:
        print(show.state_line(status))
    return show.status_code(status)


async def _update(daemon: Daemon, arguments: argparse.Namespace) -> int:
    return await install(daemon, Request("Update"), arguments)


async def _watch(daemon: Daemon, arguments: argparse.Namespace) -> int:
    await follow(daemon, as_json=arguments.json)
    return cli.Exit.DONE


async def _explain(daemon: Daemon, arguments: argparse.Namespace) -> int:
    reasons = await daemon.document("Explain")
    gates = await daemon.lockd_explain() if any(reason["what"] == "need-reboot" for reason in reasons) else None
    if arguments.json:
        cli.print_json({"reasons": reasons, "lockd": gates})
    else:
        print(show.explain_lines(reasons, gates))
    return cli.Exit.DONE


async def _history(daemon: Daemon, arguments: argparse.Namespace) -> int:
    history = await daemon.document("History")
    if arguments.json:
        cli.print_json(history)
    else:
        print(show.history_lines(history))
    return cli.Exit.DONE


async def _slots(daemon: Daemon, arguments: argparse.Namespace) -> int:
    slots = await daemon.document("Slots")
    if arguments.json:
        cli.print_json(slots)
    else:
        print(show.slots_lines(slots, await daemon.document("SlotNotes")))
    return cli.Exit.DONE


async def _reset(daemon: Daemon, arguments: argparse.Namespace) -> int:
    await daemon.ask(Request("Reset"))
    if arguments.json:
        cli.print_json(await daemon.document("Status"))
    return cli.Exit.DONE


async def _reload(daemon: Daemon, arguments: argparse.Namespace) -> int:
    change = await daemon.document("Reload")
    if arguments.json:
        cli.print_json(change)
    else:
        print(show.reload_lines(change))
    return cli.Exit.DONE


def _check_keys(directory: Path) -> None:
    """Refuse keys that can't be understood; that there is none yet is told by the first update.

    Raises:
        RefusedError: KEY_UNREADABLE, KEY_WEAK, KEY_REVOKED.
    """
    try:
        read_keyring(directory)
    except RefusedError as error:
        if error.code is not ErrorCode.KEY_MISSING:
            raise


def _config(arguments: argparse.Namespace) -> int:
    loaded = load(arguments.config, os.environ)
    if arguments.action == "check":
        if loaded.unknown:
            raise LocalError(
                ErrorCode.CONFIG,
                f"unknown setting: {', '.join(f'{key} in {loaded.layers.origin[key]}' for key in loaded.unknown)}",
                hint="Correct or remove it; updated.toml of the product lists all settings.",
            )
        _check_keys(loaded.settings.trust.keys_dir)
        print("The configuration is right.")
        return cli.Exit.DONE
    values = shown(loaded.settings)
    origins = {key: loaded.layers.origin.get(key, "default") for key in values}
    if arguments.json:
        cli.print_json({key: {"value": value, "origin": origins[key]} for key, value in values.items()})
    else:
        print(
            cli.table([(key, repr(value), origins[key]) for key, value in values.items()], ("SETTING", "VALUE", "FROM"))
        )
    return cli.Exit.DONE


if __name__ == "__main__":
    main()
