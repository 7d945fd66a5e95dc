"""What a person makes the agent do to a slot: install (the server's release, a file, a URL), or go back."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from updated.common import cli
from updated.ctl.client import Daemon, Request
from updated.ctl.watch import Painter, wait_settled
from updated.errors import ErrorCode, LocalError

URLS = ("http://", "https://")


async def install(daemon: Daemon, request: Request, arguments: argparse.Namespace) -> int:
    """Request an install; with --wait follow it to its end and return what came of it.

    Raises:
        LocalError: UNREACHABLE.
        RefusedError: the daemon is busy, or the user may not.
    """
    if arguments.wait:
        return await _follow(daemon, request, as_json=arguments.json)
    await daemon.ask(request)
    if arguments.json:
        cli.print_json(await daemon.document("Status"))
    return cli.Exit.DONE


async def apply(daemon: Daemon, arguments: argparse.Namespace) -> int:
    """Install a payload from a URL, or from a file that is opened here and handed over open.

    The daemon's sandbox sees neither /home nor /tmp, and this way it needs no name that could lead elsewhere meanwhile.

    Raises:
        LocalError: STATE; the file can't be opened. UNREACHABLE.
        RefusedError: the daemon is busy, or the user may not.
    """
    if arguments.payload.startswith(URLS):
        return await install(daemon, Request("ApplyUrl", "s", (arguments.payload,)), arguments)
    with _opened(Path(arguments.payload)) as (file, directory, path):
        return await install(daemon, Request("Apply", "hhs", (file, directory, path)), arguments)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int, str]]:
    """Open a payload and its directory; the third value is the path from the root, for people."""
    path = path.absolute()
    opened = [_open(path, os.O_RDONLY | os.O_NONBLOCK)]
    try:
        if not stat.S_ISREG(os.fstat(opened[0]).st_mode):
            raise LocalError(ErrorCode.STATE, f"{path} is no regular file", hint="Name a file that holds a payload.")
        opened.append(_open(path.parent, os.O_RDONLY | os.O_DIRECTORY))
        yield opened[0], opened[1], str(path)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise LocalError(
            ErrorCode.STATE, f"{path} can't be opened: {error.strerror}", hint="Look at the path and its permissions."
        ) from error


async def roll_back(daemon: Daemon, arguments: argparse.Namespace) -> int:
    """Ask the person, then the daemon, and return what came of it.

    Raises:
        LocalError: USAGE; there is nobody to ask. UNREACHABLE.
        RefusedError: the daemon is busy, or the user may not.
    """
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise LocalError(
                ErrorCode.USAGE, "a rollback has to be confirmed", hint="Add --yes, or run it on a terminal."
            )
        slots = await daemon.document("Slots")
        name = next((slot["name"] for slot in slots if not slot["booted"]), "?")
        print(f"Slot {name} would be the next to boot, instead of what runs now. Go on? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("Nothing was changed.")
            return cli.Exit.DONE
    return await _follow(daemon, Request("Rollback"), as_json=arguments.json)


async def _follow(daemon: Daemon, request: Request, *, as_json: bool) -> int:
    painter = Painter(sys.stdout, on_terminal=sys.stdout.isatty())
    status = await wait_settled(daemon, request, on_change=None if as_json else painter.paint)
    if as_json:
        cli.print_json(status)
    if status["state"] == "need-reboot":
        return cli.Exit.DONE
    error = status["last_error"]
    if error is None:
        # up to date, or a release is on offer that this host doesn't take
        return cli.Exit.REFUSED if status["blocked_by"] else cli.Exit.DONE
    cli.report_text(error["message"], error["name"], error["hint"])
    return cli.Exit.REFUSED if error["refused"] else cli.Exit.FAILED
