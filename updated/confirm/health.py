"""The health gate: units and commands that must be well before a boot counts as good.

A check that fails is asked again until the deadline, for services take their time to start; the verdict names the
check that held it up. The contract of a command: exit 0 is healthy, its last line of output is the reason otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from updated.common.clock import Clock
from updated.common.process import ALIVE_SECS, run
from updated.config import HealthSettings

# An agent that is started, or started again, when the boot's own deadline is near or past still gives what is starting
# this long. It is below the unit's WatchdogSec, so a gate ends whatever ends the agent in between.
LATE_SECS = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the boot is good, and if not, why."""

    healthy: bool
    reason: str = ""


async def judge(settings: HealthSettings, clock: Clock, alive: Callable[[], None]) -> Verdict:
    """Ask every check until all are well or the deadline has passed.

    The deadline counts from the boot, so that an agent that is started again goes on with the gate that there is.

    Args:
        settings: the checks and how long they may take.
        clock: tells how long ago the boot was.
        alive: called again and again while the gate makes its rounds, for the watchdog.
    """
    began = clock.since_boot()
    deadline = max(settings.deadline_secs, began + min(LATE_SECS, settings.deadline_secs))
    while True:
        reason = await _first_failure(settings, alive)
        if reason is None:
            return Verdict(healthy=True)
        if clock.since_boot() + settings.interval_secs > deadline:
            return Verdict(healthy=False, reason=f"{reason} ({clock.since_boot():.0f} s after the boot)")
        await _pause(settings.interval_secs, clock, alive)


async def _pause(secs: float, clock: Clock, alive: Callable[[], None]) -> None:
    ends = clock.monotonic() + secs
    while (left := ends - clock.monotonic()) > 0:
        alive()
        await clock.sleep(min(left, ALIVE_SECS))


async def _first_failure(settings: HealthSettings, alive: Callable[[], None]) -> str | None:
    for unit in settings.units:
        active = await _ask(["systemctl", "is-active", unit], settings.command_timeout_secs, alive)
        if active is not None:
            return f"unit {unit} is not active: {active}"
    for command in settings.commands:
        reason = await _ask(command, settings.command_timeout_secs, alive)
        if reason is not None:
            return f"health command {command[0]} failed: {reason}"
    return None


async def _ask(argv: Sequence[str], timeout_secs: float, alive: Callable[[], None]) -> str | None:
    """Run one check; None means well, else why not."""
    try:
        done = await run(argv, timeout_secs=timeout_secs, alive=alive)
    except OSError as error:
        return f"can't be started: {error.strerror}"
    if done.timed_out:
        return f"no answer in {timeout_secs:.0f} s"
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).strip().splitlines()
    return said[-1] if said else f"exit code {done.returncode}"
