"""Asks for the reboot that lets the boot loader fall back from a bad trial boot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from updated.common.bus import BusCallError, BusError, connect
from updated.common.reboot import COMMAND_SECS, reboot_plainly, run_reboot_command
from updated.errors import ErrorCode, LocalError

BY_HAND = "Reboot by hand: `SYSTEMCTL_SKIP_AUTO_KEXEC=1 systemctl reboot`."


async def reboot_by_logind(bus_address: str | None) -> None:
    """Ask logind for a reboot; it returns before the machine goes down.

    Raises:
        LocalError: UNREACHABLE or BOOT_CONTROL; no bus, or logind refused.
    """
    try:
        bus = await connect(bus_address)
        try:
            await reboot_plainly(bus)
        finally:
            await bus.close()
    except BusError as error:
        raise LocalError(ErrorCode.UNREACHABLE, str(error), hint=BY_HAND) from error
    except BusCallError as error:
        raise LocalError(ErrorCode.BOOT_CONTROL, f"logind refused the reboot: {error}", hint=BY_HAND) from error


async def reboot_by_command(argv: Sequence[str], alive: Callable[[], None]) -> None:
    """Run the configured command instead; `alive` is called each second meanwhile.

    Raises:
        LocalError: BOOT_CONTROL; it can't be started, failed, or took over a minute.
    """
    hint = "Correct health.reboot_command, or reboot by hand."
    try:
        done = await run_reboot_command(argv, alive)
    except OSError as error:
        raise LocalError(ErrorCode.BOOT_CONTROL, f"{argv[0]} can't be started: {error.strerror}", hint=hint) from error
    if done.timed_out:
        raise LocalError(ErrorCode.BOOT_CONTROL, f"{argv[0]} took over {COMMAND_SECS:.0f} s", hint=hint)
    if done.returncode != 0:
        raise LocalError(
            ErrorCode.BOOT_CONTROL, f"{argv[0]} ended with {done.returncode}: {done.stderr.strip()[:200]}", hint=hint
        )
