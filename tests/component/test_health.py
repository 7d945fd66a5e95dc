"""The health gate with real commands: how long it asks, from when on that counts, and that it shows to be alive."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.support.moving_clock import MovingClock
from updated.config import HealthSettings
from updated.confirm.health import judge

WATCHDOG_SECS = 120.0  # of updated.service


def settings(*commands: tuple[str, ...], deadline_secs: float = 300.0) -> HealthSettings:
    return HealthSettings(units=(), commands=commands, deadline_secs=deadline_secs)


class Pulse:
    """Remembers when the gate showed to be alive."""

    def __init__(self, clock: MovingClock) -> None:
        self._clock = clock
        self.seen = [clock.since_boot()]

    def __call__(self) -> None:
        self.seen.append(self._clock.since_boot())

    def longest_silence(self) -> float:
        moments = [*self.seen, self._clock.since_boot()]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))


async def test_gate_that_lasts_longer_than_the_watchdog_feeds_it() -> None:
    """At the default deadline, which is longer than the unit's watchdog, the gate never falls silent."""
    clock = MovingClock()
    pulse = Pulse(clock)
    verdict = await judge(settings(("sh", "-c", "echo no answer; exit 1")), clock, pulse)
    assert not verdict.healthy
    assert "no answer" in verdict.reason
    assert 300.0 - 5.0 <= clock.since_boot() <= 300.0
    assert pulse.longest_silence() <= WATCHDOG_SECS / 8


@pytest.mark.parametrize(("since_boot", "ends"), [(10.0, 300.0), (250.0, 310.0), (299.0, 359.0), (90000.0, 90060.0)])
async def test_deadline_counts_from_the_boot(since_boot: float, ends: float) -> None:
    """A gate that is begun again, late in the boot, ends with the boot's deadline; it asks for a minute at least."""
    clock = MovingClock()
    clock.advance(since_boot)
    verdict = await judge(settings(("false",)), clock, lambda: None)
    assert not verdict.healthy
    assert ends - 5.0 <= clock.since_boot() <= ends


async def test_check_that_is_well_at_last_is_believed(tmp_path: Path) -> None:
    """A check that fails at first and is well before the deadline makes the boot a good one."""
    flag, clock, rounds = tmp_path / "well", MovingClock(), 0

    def alive() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 20:
            flag.touch()

    assert (await judge(settings(("test", "-e", str(flag))), clock, alive)).healthy
    assert clock.since_boot() > 0


async def test_check_that_hangs_is_bounded_and_the_gate_lives_meanwhile(tmp_path: Path) -> None:
    """A check that never ends is ended at its own deadline, and the gate shows to be alive while it waits for it."""
    clock, lives = MovingClock(), 0

    def alive() -> None:
        nonlocal lives
        lives += 1

    hanging = HealthSettings(
        units=(), commands=(("sleep", "1000"),), deadline_secs=0.0, interval_secs=1.0, command_timeout_secs=2.5
    )
    verdict = await judge(hanging, clock, alive)
    assert "no answer in 2 s" in verdict.reason
    assert lives >= 2
