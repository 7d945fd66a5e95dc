"""The health gate: units and commands that must be well before a boot counts as good.

A check that isn't well is asked again until the deadline, for services take their time to start; but the gate ends at
once when a required unit, or one that it needs, has failed for good. The contract of a command: exit code 0 is healthy,
its last lines of output are the reason otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from updated.common.clock import Clock
from updated.common.process import ALIVE_SECS, Completed, run
from updated.common.text import last_lines
from updated.config import HealthSettings
from updated.confirm.units import PROPERTIES, Standing, Unit, read_units, sentence

# An agent that is started, or started again, when the boot's own deadline is near or past still gives what is starting
# this long. It is below the unit's WatchdogSec, so a gate ends whatever ends the agent in between.
LATE_SECS = 60.0
LINES, LINE_WIDTH = 5, 200  # kept of what a unit or a command said last
MOST_NEEDED = 256  # units looked at in search of the one that failed
# Rounds in a row in which a unit was neither active nor on its way and systemd had nothing to do: between two of its
# jobs the queue may be empty for a moment.
QUIET_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the boot is good, and if not, why."""

    healthy: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A check that isn't well.

    Args:
        reason: which one and how, in a sentence without its end.
        final: whether asking again can't help.
        quiet: whether a unit isn't active and systemd has nothing to do that could change it.
        invocation: of the unit, whose lines in the journal say more; empty when there are none.
        said: a command's last lines, as the end of the sentence.
    """

    reason: str
    final: bool = False
    quiet: bool = False
    invocation: str = ""
    said: str = ""


async def judge(settings: HealthSettings, clock: Clock, alive: Callable[[], None]) -> Verdict:
    """Ask every check until all are well, one is lost, or the deadline has passed.

    The deadline counts from the boot, so that an agent that is started again goes on with the gate that there is.

    Args:
        settings: the checks and how long they may take.
        clock: tells how long ago the boot was.
        alive: called again and again while the gate makes its rounds, for the watchdog.
    """
    gate = _Gate(settings, alive)
    deadline = max(settings.deadline_secs, clock.since_boot() + min(LATE_SECS, settings.deadline_secs))
    quiet = 0
    while True:
        failure = await gate.first_failure()
        if failure is None:
            return Verdict(healthy=True)
        quiet = quiet + 1 if failure.quiet else 0
        late = clock.since_boot() + settings.interval_secs > deadline
        if failure.final or late or quiet == QUIET_ROUNDS:
            after = f", {clock.since_boot():.0f} s after the boot"
            return Verdict(healthy=False, reason=failure.reason + after + await gate.said_by(failure))
        await _pause(settings.interval_secs, clock, alive)


async def _pause(secs: float, clock: Clock, alive: Callable[[], None]) -> None:
    ends = clock.monotonic() + secs
    while (left := ends - clock.monotonic()) > 0:
        alive()
        await clock.sleep(min(left, ALIVE_SECS))


class _Gate:
    """Asks systemd and the commands; every question has a deadline."""

    def __init__(self, settings: HealthSettings, alive: Callable[[], None]) -> None:
        self._settings, self._alive = settings, alive

    async def first_failure(self) -> Failure | None:
        """Ask each check once; None means that all are well."""
        failure = await self._ask_units()
        for command in self._settings.commands:
            failure = failure or await self._ask_command(command)
        return failure

    async def said_by(self, failure: Failure) -> str:
        """Return what the check said in this boot, to end a sentence with; empty where nobody knows."""
        if not failure.invocation:
            return failure.said
        match = f"_SYSTEMD_INVOCATION_ID={failure.invocation}"
        done = await self._run(["journalctl", "-q", "-n", str(LINES), "-o", "cat", "--no-pager", match])
        return _said(done.stdout) if isinstance(done, Completed) else ""

    async def _ask_units(self) -> Failure | None:
        """Return what is lost before what is only late."""
        if not self._settings.units:
            return None
        units = await self._show(self._settings.units)
        if isinstance(units, str):
            return Failure(f"systemctl show: {units}")
        failures = [await self._look_at(unit) for unit in units if unit.standing is not Standing.WELL]
        return next((failure for failure in failures if failure.final), failures[0] if failures else None)

    async def _look_at(self, unit: Unit) -> Failure:
        if unit.standing is Standing.LOST:
            return Failure(sentence(unit, unit), final=True, invocation=unit.invocation)
        if unit.standing is Standing.WAITING:
            return Failure(sentence(unit, unit), invocation=unit.invocation)
        culprit = await self._lost_requirement(unit)
        if culprit is not None:
            return Failure(sentence(unit, culprit), final=True, invocation=culprit.invocation)
        return Failure(sentence(unit, unit), quiet=await self._nothing_queued(), invocation=unit.invocation)

    async def _lost_requirement(self, unit: Unit) -> Unit | None:
        """Return the first unit that has failed for good among those that a unit needs, and those that these need."""
        seen, wave = {unit.name}, list(unit.needs)
        while wave and len(seen) < MOST_NEEDED:
            units = await self._show(wave[:MOST_NEEDED])
            if isinstance(units, str):
                return None
            lost = next((one for one in units if one.standing is Standing.LOST), None)
            if lost is not None:
                return lost
            seen.update(wave)
            unwell = [one for one in units if one.standing is not Standing.WELL]
            wave = list(dict.fromkeys(name for one in unwell for name in one.needs if name not in seen))
        return None

    async def _nothing_queued(self) -> bool:
        done = await self._run(["systemctl", "show", "--property=NJobs"])
        return isinstance(done, Completed) and done.stdout.strip() == "NJobs=0"

    async def _show(self, names: Sequence[str]) -> tuple[Unit, ...] | str:
        """Return units as systemd has them; a text says why it can't be asked."""
        done = await self._run(["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *names])
        if isinstance(done, str):
            return done
        units = read_units(done.stdout)
        if done.returncode != 0 or len(units) != len(names):
            return "; ".join(last_lines(done.stderr, 1, LINE_WIDTH)) or f"exit code {done.returncode}"
        return units

    async def _ask_command(self, command: Sequence[str]) -> Failure | None:
        done = await self._run(command)
        if isinstance(done, Completed) and done.returncode == 0:
            return None
        if isinstance(done, str):
            return Failure(f"health command {command[0]} failed: {done}")
        reason = f"health command {command[0]} failed with exit code {done.returncode}"
        return Failure(reason, said=_said(done.stdout + done.stderr))

    async def _run(self, argv: Sequence[str]) -> Completed | str:
        """Run a program to its end; a text says why there was none."""
        secs = self._settings.command_timeout_secs
        try:
            done = await run(argv, timeout_secs=secs, alive=self._alive)
        except OSError as error:
            return f"{argv[0]} can't be started: {error.strerror}"
        return f"no answer in {secs:.0f} s{_said(done.stdout + done.stderr)}" if done.timed_out else done


def _said(output: str) -> str:
    lines = last_lines(output, LINES, LINE_WIDTH)
    return f"; it said: {' | '.join(lines)}" if lines else ""
