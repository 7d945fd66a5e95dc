"""Asks for the reboot that lets the boot loader fall back from a bad trial boot."""

from __future__ import annotations

from collections.abc import Sequence

from updated.common.bus import BusCallError, BusError, connect
from updated.common.process import run
from updated.errors import ErrorCode, LocalError

COMMAND_SECS = 60.0
LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")


async def reboot_by_logind(bus_address: str | None) -> None:
    """Ask logind for a reboot; it returns before the machine goes down.

    Raises:
        LocalError: UNREACHABLE or BOOT_CONTROL; no bus, or logind refused.
    """
    try:
        bus = await connect(bus_address)
        try:
            await bus.call(*LOGIND, "Reboot", "b", [False])
        finally:
            await bus.close()
    except BusError as error:
        raise LocalError(ErrorCode.UNREACHABLE, str(error), hint="Reboot by hand: `systemctl reboot`.") from error
    except BusCallError as error:
        raise LocalError(
            ErrorCode.BOOT_CONTROL, f"logind refused the reboot: {error}", hint="Reboot by hand: `systemctl reboot`."
        ) from error


async def reboot_by_command(argv: Sequence[str]) -> None:
    """Run the configured command instead.

    Raises:
        LocalError: BOOT_CONTROL; it can't be started, failed, or took over a minute.
    """
    hint = "Correct health.reboot_command, or reboot by hand."
    try:
        done = await run(argv, timeout_secs=COMMAND_SECS)
    except OSError as error:
        raise LocalError(ErrorCode.BOOT_CONTROL, f"{argv[0]} can't be started: {error.strerror}", hint=hint) from error
    if done.returncode != 0:
        raise LocalError(
            ErrorCode.BOOT_CONTROL, f"{argv[0]} ended with {done.returncode}: {done.stderr.strip()}", hint=hint
        )
