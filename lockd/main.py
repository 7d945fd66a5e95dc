"""The lockd daemon: reads the policy, wires the real means together, runs until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from pathlib import Path

from lockd import message_ids
from lockd.config import Loaded
from lockd.errors import ErrorCode, LocalError, RefusedError
from lockd.reread import SettingsReader
from lockd.service import Service
from updated.common import bus as bus_room
from updated.common import cli, log
from updated.common.clock import SystemClock
from updated.common.errors import OperatorError

logger = log.get_logger("main")

PERMANENT = frozenset({ErrorCode.CONFIG, ErrorCode.SETTINGS_DENIED})


def main() -> None:
    """Run the `lockd` command."""
    cli.run(_main, exit_code=daemon_exit_code)


def daemon_exit_code(error: OperatorError) -> cli.Exit:
    """Return the exit code that an error means to the service manager; what no restart mends has one of its own."""
    return cli.Exit.CONFIG if error.code in PERMANENT else exit_code(error)


def exit_code(error: OperatorError) -> cli.Exit:
    """Return the exit code that an error means to a script."""
    if isinstance(error, RefusedError):
        return cli.Exit.REFUSED
    unreachable = (ErrorCode.UNREACHABLE, ErrorCode.ETCD_UNREACHABLE, ErrorCode.FLEETLOCK_UNREACHABLE)
    return cli.Exit.UNREACHABLE if error.code in unreachable else cli.Exit.FAILED


def _main() -> int:
    parser = cli.parser(
        "lockd",
        "Decides when this host may reboot: policy, windows, and the group's reboot tickets.",
        "LOCKD_CONFIG=./lockd.toml lockd",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of the system's")
    arguments: argparse.Namespace = parser.parse_args()
    reader = SettingsReader(arguments.config, os.environ)
    loaded = reader.read()
    log.configure(loaded.settings.log_level)
    if loaded.doubt:
        logger.error("policy-doubtful", message_id=message_ids.SETTINGS_WRONG, problem=loaded.doubt)
    return asyncio.run(_run(reader, loaded))


async def _run(reader: SettingsReader, loaded: Loaded) -> int:
    """Serve until a signal; a lost bus ends the daemon, and systemd starts it again."""
    bus = await _connect(loaded.settings.bus_address)
    try:
        service = Service(reader, loaded, bus, SystemClock())
        try:
            await service.start()
            await _until_signal(service)
        finally:
            await service.stop()
    finally:
        await bus.close()
    logger.info("stopped")
    return cli.Exit.DONE


async def _until_signal(service: Service) -> None:
    work = asyncio.ensure_future(service.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    loop.add_signal_handler(signal.SIGHUP, service.reload_on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _connect(address: str | None) -> bus_room.Bus:
    try:
        return await bus_room.connect(address)
    except bus_room.BusError as error:
        raise LocalError(
            ErrorCode.UNREACHABLE, str(error), hint="Start dbus, or set bus_address / LOCKD_BUS_ADDRESS."
        ) from error


if __name__ == "__main__":
    main()
