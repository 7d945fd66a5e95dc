"""The lockctl command: arguments in, documents or lines out."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from lockd.config import Loaded, load, named_file
from lockd.ctl import daemon, offline, tickets
from lockd.errors import ErrorCode, LockdError
from lockd.main import exit_code
from lockd.tickets import INTERVAL_LIMIT, MAX_LIMIT, NAME
from updated.common import cli

NEXT_LIMIT = 1000
LIKE_THIS = "write it like 2026-01-31T02:00:00Z"


def main() -> None:
    """Run the `lockctl` command."""
    cli.run(_main, exit_code=exit_code)


def _main() -> int:
    arguments = _parse()
    try:
        loaded = load(arguments.config, os.environ)
    except LockdError as error:
        return _without_settings(arguments, error)
    if loaded.doubt and arguments.command != "windows":
        print(f"warning: {loaded.doubt}; this host doesn't reboot by this policy", file=sys.stderr)
    named = named_file(arguments.config, os.environ) is not None
    return asyncio.run(_run(loaded, arguments, named=named))


async def _run(loaded: Loaded, arguments: argparse.Namespace, *, named: bool) -> int:
    """Run a command with settings; what is in force is asked of the daemon, unless a file is named."""
    address = loaded.settings.bus_address
    if arguments.command == "windows":
        return await offline.windows_of(loaded, arguments) if named else await offline.windows(loaded, arguments)
    if arguments.command == "explain":
        return await offline.explain(loaded, arguments)
    if arguments.command == "reload":
        return await daemon.reload(address)
    if arguments.command == "reboot":
        return await daemon.reboot(address, arguments)
    return await tickets.run(loaded.settings, arguments)


def _without_settings(arguments: argparse.Namespace, error: LockdError) -> int:
    """Run a command that needs no settings of this user's; the daemon has its own, for everyone.

    Raises:
        LockdError: the command needs the settings, which are wrong or aren't for this user.
    """
    address = os.environ.get("LOCKD_BUS_ADDRESS") or None
    if arguments.command == "explain":
        return asyncio.run(offline.explain_without_settings(address, arguments, error))
    if arguments.command == "reload":
        return asyncio.run(daemon.reload(address))
    denied = error.code is ErrorCode.SETTINGS_DENIED and arguments.config is None
    if not denied or arguments.command not in offline.READINGS:
        raise error
    return asyncio.run(offline.READINGS[arguments.command](address, arguments))


def _parse() -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.command == "set-policy" and arguments.min_interval_secs is None and arguments.overdue is None:
        parser.error("set-policy needs --min-interval-secs or --overdue")
    if arguments.command == "unlock" and arguments.id is not None and not arguments.force:
        try:
            _machine_id(arguments.id)
        except argparse.ArgumentTypeError as error:
            parser.error(f"{error}; a damaged ticket of another name needs --force")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "lockctl", "Shows and steers the reboots of this host and its group.", "lockctl status --json | jq .holders"
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of the system's")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, parents=[common], epilog=f"example: lockctl {example}"
        )

    add("status", "how many may be down, who holds a slot, who waits", "status --json")
    add("machines", "the fleet: who holds a slot or waits, in the order of the queue, then the others", "machines")
    add("explain", "why this host isn't rebooting, gate by gate, and what would end it", "explain")
    add("reload", "have lockd read its settings again, and hear whether they are right", "reload")
    add("reboot", "ask for a reboot of this host, through the same gates", "reboot")
    _add_windows(add("windows", "is a reboot window open, until when, and the next ones", "windows --next 5"))
    lock = add("lock", "take a slot by hand, for this machine or another", "lock web-7")
    lock.add_argument("id", nargs="?", type=_machine_id, metavar="ID", help="machine id (default: this machine's)")
    unlock = add("unlock", "give a slot back by hand", "unlock web-7 --force --reason 'its disk is gone'")
    unlock.add_argument(
        "id", nargs="?", type=_name, metavar="ID",
        help="machine id (default: this machine's); with --force any name that `status` shows",
    )  # fmt: skip
    unlock.add_argument(
        "--force", action="store_true", help="even if the machine may be down or unwell; it is recorded"
    )
    unlock.add_argument("--reason", default="none given", metavar="TEXT", help="why by force: kept with who and when")
    set_max = add("set-max", "set how many machines of the group may be down at once", "set-max 3")
    set_max.add_argument("max", type=_limit, metavar="N", help="a number, or N%% of the machines known now")
    _add_policy(add("set-policy", "set what else holds the group's reboots back", "set-policy --overdue 2"))
    pause = add("pause", "let no machine of the group reboot until `resume`", "pause --reason 'network works'")
    pause.add_argument("--reason", default="paused by hand", help="for everyone to see")
    add("resume", "end a pause", "resume")
    return parser


def _add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-interval-secs", type=_interval, metavar="SECS", help="least time between two grants; 0: none"
    )
    parser.add_argument(
        "--overdue", type=_budget, metavar="hold|K",
        help="hold: machines that are overdue keep their slots; K: and when there are K, nobody reboots any more",
    )  # fmt: skip


def _add_windows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--next", type=_count, default=0, metavar="N", help="list the next N openings too")
    parser.add_argument("--at", type=_moment, metavar="RFC3339", help="for this moment instead of now")


def _count(text: str) -> int:
    return _between(text, 0, NEXT_LIMIT, "openings")


def _limit(text: str) -> tuple[int, int]:
    """Return a number and 0, or 0 and a percentage."""
    if text.endswith("%"):
        return 0, _between(text[:-1], 1, 100, "per cent")
    return _between(text, 1, MAX_LIMIT, "machines; `lockctl pause` lets nobody reboot"), 0


def _interval(text: str) -> int:
    return _between(text, 0, INTERVAL_LIMIT, "seconds")


def _budget(text: str) -> int:
    return 0 if text == "hold" else _between(text, 1, MAX_LIMIT, "machines")


def _between(text: str, least: int, most: int, unit: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):  # int() would take 1_0 and the digits of other scripts too
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most} {unit}")
    number = int(text)
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{number} is not from {least} to {most} {unit}")
    return number


def _machine_id(text: str) -> str:
    if not NAME.fullmatch(text):
        problem = f"{text!r} is no machine id: 1 to 64 letters, digits, dots, dashes or underscores"
        raise argparse.ArgumentTypeError(problem)
    return text


def _name(text: str) -> str:
    """Return a name that a key can have: what isn't a machine id may be a damaged ticket's."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError("that is no UTF-8") from error
    return text


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time ({error}); {LIKE_THIS}") from error
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no zone; {LIKE_THIS}")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise argparse.ArgumentTypeError(f"{text!r} isn't within the years 1 to 9999 of UTC") from error


if __name__ == "__main__":
    main()
