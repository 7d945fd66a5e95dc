"""The health gate: units and commands that must be well before a boot counts as good.

A check that fails is asked again until the deadline, for services take their time to start; the verdict names the
check that held it up. The contract of a command: exit 0 is healthy, its last line of output is the reason otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from updated.common.clock import Clock
from updated.common.process import run
from updated.config import HealthSettings


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the boot is good, and if not, why."""

    healthy: bool
    reason: str = ""


async def judge(settings: HealthSettings, clock: Clock) -> Verdict:
    """Ask every check until all are well or the deadline has passed."""
    deadline = clock.monotonic() + settings.deadline_secs
    while True:
        reason = await _first_failure(settings)
        if reason is None:
            return Verdict(healthy=True)
        if clock.monotonic() + settings.interval_secs > deadline:
            return Verdict(healthy=False, reason=f"{reason} (after {settings.deadline_secs:.0f} s)")
        await clock.sleep(settings.interval_secs)


async def _first_failure(settings: HealthSettings) -> str | None:
    for unit in settings.units:
        active = await _ask(["systemctl", "is-active", unit], settings.command_timeout_secs)
        if active is not None:
            return f"unit {unit} is not active: {active}"
    for command in settings.commands:
        reason = await _ask(command, settings.command_timeout_secs)
        if reason is not None:
            return f"health command {command[0]} failed: {reason}"
    return None


async def _ask(argv: Sequence[str], timeout_secs: float) -> str | None:
    """Run one check; None means well, else why not."""
    try:
        done = await run(argv, timeout_secs=timeout_secs)
    except OSError as error:
        return f"can't be started: {error.strerror}"
    if done.timed_out:
        return f"no answer in {timeout_secs:.0f} s"
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).strip().splitlines()
    return said[-1] if said else f"exit code {done.returncode}"
