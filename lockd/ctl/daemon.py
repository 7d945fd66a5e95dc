"""The commands that ask the running daemon: explain and reboot."""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from lockd.config import Settings
from lockd.ctl import show
from lockd.errors import ErrorCode, LocalError, RefusedError, Retry
from updated.common import cli
from updated.common.bus import Bus, BusCallError, BusError, connect

LOCKD = ("org.lockd.Lockd1", "/org/lockd/Lockd1", "org.lockd.Lockd1.Manager")
NOBODY = ("org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")


async def explain(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the chain of gates.

    Raises:
        LockdError: the daemon can't be asked.
    """
    async with _open(settings.bus_address) as bus:
        gates = await _gates(bus)
    if arguments.json:
        cli.print_json(gates)
    else:
        print(show.gates_lines(gates))
    return cli.Exit.DONE


async def reboot(settings: Settings, arguments: argparse.Namespace) -> int:
    """Ask for a reboot; it stands until it was done, and a closed gate is told of with exit code 3.

    Raises:
        RefusedError: a gate is closed, or the policy or the bus says no.
        LocalError: the daemon can't be asked.
    """
    async with _open(settings.bus_address) as bus:
        looked = await _call(bus, "RequestReboot") == [True]
        gates = await _gates(bus)
    if arguments.json:
        cli.print_json(gates)
    blocked = show.blocking(gates)
    if not looked and (blocked is not None or not gates):  # they may be of a time before the request
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


async def _gates(bus: Bus) -> list[dict[str, Any]]:
    (text,) = await _call(bus, "Explain")
    return list(json.loads(text))


async def _call(bus: Bus, member: str) -> list[Any]:
    try:
        return await bus.call(*LOCKD, member)
    except (BusError, BusCallError) as error:
        _translate(error)


@asynccontextmanager
async def _open(address: str | None) -> AsyncIterator[Bus]:
    try:
        bus = await connect(address)
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
    if error.name == "org.freedesktop.DBus.Error.AccessDenied":
        raise RefusedError(
            ErrorCode.BUSY, "this user may not ask lockd for that", hint="Run the command as root."
        ) from error
    raise RefusedError(ErrorCode.BUSY, error.text, hint="`lockctl explain` tells how it stands.") from error
