"""Asks for the reboot: logind, or a command of the policy file's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from lockd.errors import ErrorCode, LocalError, RefusedError, Retry
from updated.common.bus import Bus, BusCallError, BusError
from updated.common.log import get_logger
from updated.common.process import run

LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
COMMAND_SECS = 60.0
logger = get_logger("logind")

Reboot = Callable[[], Awaitable[None]]


WALL = "lockd: this host reboots now, to start the version that was installed"


async def reboot_by_logind(bus: Bus) -> None:
    """Ask logind for a plain reboot, which heeds its inhibitors; never for a soft one or kexec.

    Those wouldn't go through the firmware and the boot loader, which is what changes the slot. `Reboot` with a plain
    False is the kernel's own reboot; systemctl's own choice of a soft reboot isn't in this way.

    Raises:
        RefusedError: logind says no (an inhibitor, a policy).
        LocalError: logind can't be asked.
    """
    await _announce(bus)
    try:
        await bus.call(*LOGIND, "Reboot", "b", [False])
    except BusCallError as error:
        raise RefusedError(
            ErrorCode.REBOOT_REFUSED, f"logind refused the reboot: {error.text} [{error.name}]",
            hint="`systemd-inhibit --list` shows who holds it back.", retry=Retry.LATER,
        ) from error  # fmt: skip
    except BusError as error:
        raise LocalError(
            ErrorCode.REBOOT_FAILED, f"logind can't be asked for the reboot: {error}",
            hint="Is systemd-logind running? A `reboot_command` in lockd.toml takes its place.", retry=Retry.LATER,
        ) from error  # fmt: skip


async def _announce(bus: Bus) -> None:
    """Let logind tell everybody who is logged in, with the reboot itself; a reboot doesn't hang on that."""
    try:
        await bus.call(*LOGIND, "SetWallMessage", "sb", [WALL, True])
    except (BusCallError, BusError) as error:
        logger.warning("no-wall-message", error=str(error))


async def reboot_by_command(argv: Sequence[str]) -> None:
    """Run the configured command.

    Raises:
        LocalError: it can't be started, fails, or takes over a minute.
    """
    hint = "Correct reboot_command in lockd.toml."
    try:
        done = await run(argv, timeout_secs=COMMAND_SECS)
    except OSError as error:
        raise LocalError(
            ErrorCode.REBOOT_FAILED, f"{argv[0]} can't be started: {error.strerror}", hint=hint, retry=Retry.LATER
        ) from error
    if done.returncode != 0 or done.timed_out:
        how = f"took over {COMMAND_SECS:.0f} s" if done.timed_out else f"ended with {done.returncode}"
        raise LocalError(
            ErrorCode.REBOOT_FAILED, f"{argv[0]} {how}: {done.stderr.strip()[:200]}", hint=hint, retry=Retry.LATER
        )


def choose_reboot(command: Sequence[str], bus: Bus) -> Reboot:
    """Return what brings the reboot about."""
    if command:
        return lambda: reboot_by_command(command)
    return lambda: reboot_by_logind(bus)
