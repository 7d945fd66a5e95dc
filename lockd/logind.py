"""Asks for the reboot: logind, or a command of the policy file's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from lockd.errors import ErrorCode, LocalError, RefusedError, Retry
from lockd.polkit import explain_error, is_polkit_there
from updated.common.bus import Bus, BusCallError, BusError
from updated.common.log import get_logger
from updated.common.reboot import COMMAND_SECS, LOGIND, reboot_plainly, run_reboot_command

logger = get_logger("logind")

Reboot = Callable[[], Awaitable[None]]


# errors by which the reboot may come all the same: logind has a shutdown under way, or died or was slow over this one
DOUBTFUL = {
    "org.freedesktop.login1.OperationInProgress",
    *(f"org.freedesktop.DBus.Error.{name}" for name in ("NoReply", "Timeout", "TimedOut", "Disconnected")),
}
WALL = "lockd: this host reboots now, to start the version that was installed"


async def reboot_by_logind(bus: Bus) -> None:
    """Ask logind for a plain reboot, which heeds its inhibitors (`updated.common.reboot`).

    Raises:
        RefusedError: logind says no (polkit, an inhibitor), or isn't there.
        LocalError: REBOOT_IN_DOUBT; it was asked, and no answer came, or it has a shutdown under way.
    """
    await _announce(bus)
    try:
        await reboot_plainly(bus)
    except BusCallError as error:
        if error.name in DOUBTFUL:
            raise _in_doubt(error) from error
        why, ends = explain_error(error, polkit_there=await is_polkit_there(bus))
        raise RefusedError(
            ErrorCode.REBOOT_REFUSED, f"the reboot was refused: {why}", hint=f"What ends it: {ends}.", retry=Retry.LATER
        ) from error
    except BusError as error:
        raise _in_doubt(error) from error


def _in_doubt(error: Exception) -> LocalError:
    return LocalError(
        ErrorCode.REBOOT_IN_DOUBT, f"nobody knows whether the reboot comes: {error}",
        hint="Is systemd-logind well? It is asked again after `reboot_retry_secs`.", retry=Retry.LATER,
    )  # fmt: skip


async def _announce(bus: Bus) -> None:
    """Let logind tell everybody who is logged in, with the reboot itself; a reboot doesn't hang on that."""
    try:
        await bus.call(*LOGIND, "SetWallMessage", "sb", [WALL, True])
    except (BusCallError, BusError) as error:
        logger.warning("no-wall-message", error=str(error))


async def reboot_by_command(argv: Sequence[str]) -> None:
    """Run the configured command.

    Raises:
        LocalError: REBOOT_FAILED; it can't be started, or fails. REBOOT_IN_DOUBT; it takes over a minute.
    """
    hint = "Correct reboot_command in lockd.toml."
    try:
        done = await run_reboot_command(argv)
    except OSError as error:
        raise LocalError(
            ErrorCode.REBOOT_FAILED, f"{argv[0]} can't be started: {error.strerror}", hint=hint, retry=Retry.LATER
        ) from error
    if done.returncode != 0 or done.timed_out:
        how = f"took over {COMMAND_SECS:.0f} s" if done.timed_out else f"ended with {done.returncode}"
        code = ErrorCode.REBOOT_IN_DOUBT if done.timed_out else ErrorCode.REBOOT_FAILED
        raise LocalError(code, f"{argv[0]} {how}: {done.stderr.strip()[:200]}", hint=hint, retry=Retry.LATER)


def choose_reboot(command: Sequence[str], bus: Bus) -> Reboot:
    """Return what brings the reboot about."""
    if command:
        return lambda: reboot_by_command(command)
    return lambda: reboot_by_logind(bus)
