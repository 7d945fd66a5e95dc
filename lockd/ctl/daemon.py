"""The commands that ask the running daemon; none of them starts one that somebody stopped."""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from lockd.ctl import show
from lockd.errors import ErrorCode, LocalError, RefusedError, Retry
from updated.common import cli
from updated.common.bus import Bus, BusCallError, BusError, connect

LOCKD = ("org.lockd.Lockd1", "/org/lockd/Lockd1", "org.lockd.Lockd1.Manager")
NOBODY = ("org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")
NO_REPLY = "org.freedesktop.DBus.Error.NoReply"  # the daemon left the bus in the middle of its answer
REFUSED = "org.lockd.Error."  # what the daemon itself refuses


async def gates(address: str | None) -> list[dict[str, Any]]:
    """Return the chain of gates.

    Raises:
        LockdError: the daemon can't be asked.
    """
    return list(await ask(address, "Explain"))


async def ask(address: str | None, member: str, signature: str = "", *arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Return the document that a reading method answers with.

    Raises:
        LockdError: the daemon can't be asked, or refuses.
    """
    async with _open(address) as bus:
        (text,) = await _call(bus, member, signature, *arguments)
        return json.loads(text)


async def reload(address: str | None) -> int:
    """Have the daemon read its settings again.

    Raises:
        RefusedError: they are wrong, or this user may not ask for that.
        LocalError: the daemon can't be asked.
    """
    async with _open(address) as bus:
        await _call(bus, "Reload")
    print("lockd reads its settings again.")
    return cli.Exit.DONE


async def reboot(address: str | None, arguments: argparse.Namespace) -> int:
    """Ask for a reboot; it stands until it was done, and a closed gate is told of with exit code 3.

    Raises:
        RefusedError: a gate is closed, or the policy or the bus says no.
        LocalError: the daemon can't be asked.
    """
    async with _open(address) as bus:
        looked = await _call(bus, "RequestReboot") == [True]
        chain = await _chain_after(bus)
    if arguments.json:
        cli.print_json(chain)
    blocked = show.blocking(chain)
    if not looked and (blocked is not None or not chain):  # they may be of a time before the request
        raise RefusedError(
            ErrorCode.BUSY, "not known yet: lockd is still looking, and takes long",
            hint="The request stands; `lockctl explain` tells how it goes on.", retry=Retry.LATER,
        )  # fmt: skip
    if blocked is not None:
        raise RefusedError(
            ErrorCode.BUSY, f"not now: {blocked['reason']} ({blocked['gate']})",
            hint=f"The request stands. It goes on when: {blocked['ends']}", retry=Retry.LATER,
        )  # fmt: skip
    if not arguments.json:
        print("The reboot is on its way.")
    return cli.Exit.DONE


async def _chain_after(bus: Bus) -> list[dict[str, Any]]:
    """Return the gates after a request; a daemon that is gone by then goes down with its host."""
    try:
        return list(json.loads((await _call(bus, "Explain"))[0]))
    except LocalError as error:
        return [{"gate": "daemon", "state": "open", "reason": f"it has ended since: {error.message}", "ends": ""}]


async def _call(bus: Bus, member: str, signature: str = "", *arguments: object) -> list[Any]:
    try:
        return await bus.call(*LOCKD, member, signature, arguments)
    except (BusError, BusCallError) as error:
        _translate(error)


@asynccontextmanager
async def _open(address: str | None) -> AsyncIterator[Bus]:
    try:
        bus = await connect(address, auto_start=False)
    except BusError as error:
        _translate(error)
    try:
        yield bus
    finally:
        await bus.close()


def _translate(error: BusError | BusCallError) -> NoReturn:
    if isinstance(error, BusError) or error.name in NOBODY:
        raise LocalError(
            ErrorCode.UNREACHABLE,
            str(error) if isinstance(error, BusError) else "lockd can't be reached",
            hint="Is it running? `systemctl status lockd`. In a container set LOCKD_BUS_ADDRESS.",
            retry=Retry.LATER,
        ) from error
    if error.name == NO_REPLY:
        raise LocalError(
            ErrorCode.UNREACHABLE, "lockd ended before it answered",
            hint="The host goes down, or lockd was stopped: `systemctl status lockd`.", retry=Retry.LATER,
        ) from error  # fmt: skip
    if error.name == "org.freedesktop.DBus.Error.AccessDenied":
        raise RefusedError(
            ErrorCode.BUSY, "this user may not ask lockd for that", hint="Run the command as root."
        ) from error
    if error.name == f"{REFUSED}Config":
        raise LocalError(ErrorCode.CONFIG, error.text, hint="Until then this host doesn't reboot.") from error
    raise RefusedError(ErrorCode.BUSY, error.text, hint="`lockctl explain` tells how it stands.") from error
