"""The coordinator step by step: a real ticket file, an agent and a clock that the test moves between two looks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path

import pytest

from lockd.agent import AgentView, Rollback
from lockd.errors import ErrorCode, LocalError, RefusedError
from lockd.gates import State, closed_gate
from lockd.semaphore import Identity, Semaphore
from lockd.tickets import Phase
from lockd.windows import Window
from tests.support.stepped_host import IDLE, WANTED, Host

WINDOW = Window(time(12), 3600, UTC)


def other(host: Host) -> Semaphore:
    return Semaphore(host.store, host.clock, Identity("m2", "boot-9"))


async def test_nothing_wanted_asks_for_nothing(tmp_path: Path) -> None:
    """An idle host takes no ticket and doesn't reboot."""
    host = Host(tmp_path, IDLE)
    assert await host.step() == "need"
    assert (await host.phases(), host.reboots) == ({}, 0)


async def test_wanted_reboot_goes_through(tmp_path: Path) -> None:
    """With all gates open one step writes down that the host goes down, and asks for the reboot, once."""
    host = Host(tmp_path, WANTED, windows=(WINDOW,))
    assert await host.step() is None
    assert await host.step() is None
    assert (await host.phases(), host.reboots) == ({"m1": Phase.REBOOTING}, 1)


async def test_window_that_closes_while_waiting_is_noticed(tmp_path: Path) -> None:
    """A host that gets its turn after the window closed doesn't reboot, and leaves the queue."""
    host = Host(tmp_path, WANTED, windows=(WINDOW,))
    await other(host).lock_by_hand("m2")
    assert await host.step() == "ticket"
    assert await host.phases() == {"m2": Phase.MANUAL, "m1": Phase.WAITING}
    await other(host).unlock_by_hand("m2", force=False)
    host.clock.advance(3600)
    assert await host.step() == "window"
    assert (await host.phases(), host.reboots) == ({}, 0)


async def test_window_that_closes_right_before_the_reboot_is_noticed(tmp_path: Path) -> None:
    """The last look, after everything else, still sees the window close: no reboot, and the slot is given back."""
    host = Host(tmp_path, WANTED, windows=(WINDOW,))
    host.agent.on_look = lambda count: host.clock.advance(3600) if count == 2 else None
    assert await host.step() == "window"
    assert (await host.phases(), host.reboots) == ({"m1": Phase.HELD}, 0)
    assert await host.step() == "window"
    assert (await host.phases(), host.reboots) == ({}, 0)


async def test_blocker_that_comes_right_before_the_reboot_is_noticed(tmp_path: Path) -> None:
    """The last look sees a hold file that wasn't there before."""
    host = Host(tmp_path, WANTED)
    host.agent.on_look = lambda count: (tmp_path / "hold").touch() if count == 2 else None
    assert await host.step() == "blockers"
    assert host.reboots == 0


async def test_too_little_time_left_is_no_reboot(tmp_path: Path) -> None:
    """A window with less time left than a reboot needs is as good as closed."""
    host = Host(tmp_path, WANTED, windows=(WINDOW,), min_remaining_secs=3601.0)
    assert await host.step() == "window"
    assert (await host.phases(), host.reboots) == ({}, 0)


async def test_withdrawn_update_gives_the_place_back(tmp_path: Path) -> None:
    """A host that waits and doesn't want any more leaves the queue."""
    host = Host(tmp_path, WANTED)
    await other(host).lock_by_hand("m2")
    await host.step()
    host.agent.view = IDLE
    await host.step()
    assert await host.phases() == {"m2": Phase.MANUAL}


async def test_silent_agent_costs_neither_place_nor_slot(tmp_path: Path) -> None:
    """While the agent can't be asked nothing reboots, and nothing is given up either."""
    host = Host(tmp_path, WANTED)
    await other(host).lock_by_hand("m2")
    await host.step()
    host.agent.view = AgentView(problem="gone")
    assert await host.step() == "need"
    assert (await host.phases())["m1"] is Phase.WAITING


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (AgentView(problem="gone"), {"m1": Phase.REBOOTING}),
        (AgentView(known=True, healthy=None, problem="unclear"), {"m1": Phase.REBOOTING}),
        (AgentView(known=True, healthy=False), {"m1": Phase.REBOOTING}),
        (AgentView(known=True, healthy=True), {}),
        (AgentView(known=True, healthy=True, rollback=Rollback("2.0", "boot-2")), {"m1": Phase.ROLLED_BACK}),
        (AgentView(known=True, healthy=True, rollback=Rollback("1.5", "boot-2")), {}),
    ],
)
async def test_slot_is_released_in_a_new_healthy_boot_only(
    tmp_path: Path, view: AgentView, expected: dict[str, Phase]
) -> None:
    """Not at start, not while unhealthy or unknown, not after a rollback: only a confirmed boot releases."""
    before = Host(tmp_path, WANTED)
    await before.step()
    after = Host(tmp_path, view, boot="boot-2")
    await after.step()
    assert (await after.phases(), after.reboots) == (expected, 0)


async def test_same_boot_releases_nothing(tmp_path: Path) -> None:
    """The boot that asked for the reboot doesn't release, however healthy it is."""
    before = Host(tmp_path, WANTED)
    await before.step()
    after = Host(tmp_path, IDLE)
    await after.step()
    assert await after.phases() == {"m1": Phase.REBOOTING}


async def test_rollback_pauses_once(tmp_path: Path) -> None:
    """A rolled-back host pauses its group, and doesn't pause it again after an operator resumed it."""
    before = Host(tmp_path, WANTED)
    await before.step()
    rolled_back = AgentView(known=True, healthy=True, rollback=Rollback("2.0", "boot-2"))
    after = Host(tmp_path, rolled_back, boot="boot-2")
    assert await after.step() == "release"
    assert (await after.store.read()).settings.pause is not None
    await other(after).resume()
    await after.step()
    assert (await after.store.read()).settings.pause is None
    assert await after.phases() == {"m1": Phase.ROLLED_BACK}
    # a better release is installed: the slot that the host still has takes it there
    after.agent.view = replace(WANTED, version_new="2.1", rollback=Rollback("2.0", "boot-2"))
    await after.step()
    assert (await after.phases(), after.reboots) == ({"m1": Phase.REBOOTING}, 1)


async def test_reboot_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    """A failing reboot shows in explain, costs the slot until it is tried again, and clears when it works."""
    host = Host(tmp_path, WANTED, reboot_retry_secs=600.0)
    host.reboot_error = LocalError(ErrorCode.REBOOT_FAILED, "it broke", hint="repair it")
    await host.coordinator.step()
    assert host.coordinator.view.gates[-1].gate == "reboot"
    assert host.coordinator.view.last_error is not None
    assert await host.step(30) == "blockers"
    assert "it broke [reboot-failed]" in host.coordinator.view.gates[2].reason
    assert await host.phases() == {}
    host.reboot_error = None
    assert (await host.step(560), host.reboots) == ("blockers", 0)
    assert await host.step(20) is None
    assert host.coordinator.view.last_error is None
    assert host.reboots == 1


async def test_reboot_that_does_not_come_is_asked_for_again(tmp_path: Path) -> None:
    """When the machine is still up long after, the reboot is asked for again; an unused slot isn't kept for ever."""
    host = Host(tmp_path, WANTED, reboot_retry_secs=600.0)
    await host.step()
    host.clock.advance(601)
    await host.step()
    assert host.reboots == 2
    host.agent.view = IDLE
    await host.step()
    assert await host.phases() == {"m1": Phase.REBOOTING}  # it may be going down at this moment
    host.clock.advance(601)
    await host.step()
    assert await host.phases() == {}


async def test_damaged_ticket_file_means_no_reboot(tmp_path: Path) -> None:
    """A ticket file that can't be read is no reason to go ahead; explain says which file."""
    (tmp_path / "tickets.json").write_text("{broken")
    host = Host(tmp_path, WANTED)
    assert await host.step() == "ticket"
    gate = closed_gate(host.coordinator.view.gates)
    assert gate is not None
    assert "tickets.json is damaged" in gate.reason
    assert gate.state is State.CLOSED
    assert host.reboots == 0


async def test_slot_taken_by_hand_is_not_used(tmp_path: Path) -> None:
    """While an operator holds this host's slot by hand, lockd leaves it alone."""
    host = Host(tmp_path, WANTED)
    await other(host).lock_by_hand("m1")
    assert await host.step() == "ticket"
    assert (await host.phases(), host.reboots) == ({"m1": Phase.MANUAL}, 0)


async def test_strategy_off_never_reboots_not_even_for_a_human(tmp_path: Path) -> None:
    """With strategy off nothing reboots, and a human's request is refused."""
    host = Host(tmp_path, WANTED, strategy="off")
    assert await host.step() == "strategy"
    with pytest.raises(RefusedError):
        await host.coordinator.ask()
    assert host.reboots == 0


async def test_clock_that_runs_backwards_only_delays(tmp_path: Path) -> None:
    """A clock set back before the window's start closes it; nothing crashes, nothing reboots."""
    host = Host(tmp_path, WANTED, windows=(WINDOW,))
    host.clock.advance(-86400 * 3650 - 3600)
    assert host.clock.now() < datetime(2017, 1, 1, tzinfo=UTC)
    assert await host.step() == "window"
    assert host.reboots == 0
