"""Asks for the reboot that lets the boot loader fall back from a bad trial boot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from updated.common.bus import BusCallError, BusError, connect
from updated.common.log import get_logger
from updated.common.reboot import COMMAND_SECS, reboot_plainly, run_reboot_command
from updated.errors import ErrorCode, LocalError

NOBODY = ("org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")
# `reboot` would look for a loaded kernel and a next root; the target is the plain reboot and nothing else
PLAIN_REBOOT = ("systemctl", "start", "--no-block", "--job-mode=replace-irreversibly", "reboot.target")
log = get_logger("reboot")
BY_HAND = "Reboot by hand: `SYSTEMCTL_SKIP_AUTO_KEXEC=1 systemctl reboot`."


async def reboot_by_logind(bus_address: str | None, alive: Callable[[], None]) -> None:
    """Ask logind for a reboot; it returns before the machine goes down.

    Where there is no bus, or no logind on it, systemd itself is asked: a release whose D-Bus is broken is to be left,
    too, and nobody is there whose inhibitors could be passed over.

    Raises:
        LocalError: UNREACHABLE or BOOT_CONTROL; logind didn't answer or refused, or systemd did.
    """
    try:
        bus = await connect(bus_address)
    except BusError as error:
        await _reboot_by_systemd(str(error), alive)
        return
    try:
        await reboot_plainly(bus)
    except BusError as error:
        raise LocalError(ErrorCode.UNREACHABLE, str(error), hint=BY_HAND) from error
    except BusCallError as error:
        if error.name not in NOBODY:
            raise LocalError(ErrorCode.BOOT_CONTROL, f"logind refused the reboot: {error}", hint=BY_HAND) from error
        await _reboot_by_systemd(str(error), alive)
    finally:
        await bus.close()


async def _reboot_by_systemd(why: str, alive: Callable[[], None]) -> None:
    """Start reboot.target, over systemd's own socket: neither `systemctl reboot` nor logind takes part."""
    log.warning("reboot-without-logind", reason=why)
    try:
        await reboot_by_command(PLAIN_REBOOT, alive)
    except LocalError as error:
        raise LocalError(error.code, f"{error.message}; {why}", hint=BY_HAND) from error


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
