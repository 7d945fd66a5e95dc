"""What happens on the way to a reboot that is in doubt, cut short, or not wanted any more: nobody too many goes down.

One host with all its rooms: real hooks, a real ticket file; agent, clock and logind's answers are the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, cast

import pytest
from dbus_next import Variant

from lockd import logind
from lockd.agent import AgentView
from lockd.blockers import Blockers
from lockd.drain import Drain
from lockd.errors import ErrorCode, LocalError
from lockd.local import Local
from lockd.local_settings import AlertSettings, HookSettings, SessionSettings
from lockd.people import People
from lockd.semaphore import Identity, Semaphore
from lockd.tickets import Claim, Phase
from lockd.waiting import Waiting
from tests.support.moving_clock import MovingClock
from tests.support.stepped_host import IDLE, WANTED, Host
from updated.common import reboot
from updated.common.bus import Bus, BusError


class Logind:
    """Answers who is logged in."""

    def __init__(self) -> None:
        self.people: set[str] = set()
        self.error: Exception | None = None

    async def call(self, _destination: str, _path: str, _interface: str, member: str, *_more: Any) -> list[Any]:
        if self.error is not None and member != "ListInhibitors":  # that one blocks by itself
            raise self.error
        if member == "ListSessions":
            return [[[name, 1000, name, "", f"/session/{name}"] for name in sorted(self.people)]]
        if member == "GetAll":
            return [{"Class": Variant("s", "user"), "State": Variant("s", "active"), "TTY": Variant("s", "pts/0")}]
        return [[]]


class WholeHost(Host):
    """A host with its people and hooks."""

    def __init__(self, root: Path, *, boot: str = "boot-1", **sessions: Any) -> None:
        self.logind = Logind()
        (root / "hooks").mkdir(exist_ok=True)
        hooks, bus = HookSettings(dirs=(root / "hooks",)), cast("Bus", self.logind)
        self.drain = Drain(hooks, root / "drained.json", boot)

        def rooms(clock: MovingClock) -> Local:
            people = People(clock, bus, SessionSettings(announce="nobody", **sessions), "m1")
            blockers = Blockers(clock, bus, (hooks, AlertSettings()), {})
            return Local(blockers, people, self.drain, Waiting(root / "waiting.json"), {})

        super().__init__(root, WANTED, boot, local=rooms)

    def gates(self) -> list[str]:
        return [gate.gate for gate in self.coordinator.view.gates]


def hook(root: Path, folder: str, text: str) -> None:
    path = root / "hooks" / folder / "10-hook"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def test_reboot_without_an_answer_keeps_its_slot(tmp_path: Path) -> None:
    """It may come about all the same: whatever gate closes then, the slot stays until it must have come to nothing."""
    host = WholeHost(tmp_path)
    host.reboot_error = LocalError(ErrorCode.REBOOT_IN_DOUBT, "no answer", hint="wait")
    assert await host.step() == "reboot"
    (tmp_path / "hold").touch()
    await host.step(1)
    await host.step(300)
    assert await host.phases() == {"m1": Phase.REBOOTING}
    await host.step(301)
    assert (await host.phases(), host.reboots) == ({}, 0)


async def test_logind_that_does_not_answer_leaves_the_reboot_in_doubt() -> None:
    """Only an answer is a no; a bus that breaks, or a time-out, isn't."""
    bus: Any = Logind()
    bus.error = BusError("org.freedesktop.login1 did not answer Reboot in 30 s")
    with pytest.raises(LocalError) as caught:
        await logind.reboot_by_logind(bus)
    assert caught.value.code is ErrorCode.REBOOT_IN_DOUBT


async def test_command_that_takes_too_long_leaves_the_reboot_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have done what it was told before it was ended."""
    monkeypatch.setattr(reboot, "COMMAND_SECS", 0.2)
    with pytest.raises(LocalError) as caught:
        await logind.reboot_by_command(["sleep", "60"])
    assert caught.value.code is ErrorCode.REBOOT_IN_DOUBT


async def test_command_is_told_to_take_no_short_cut(tmp_path: Path) -> None:
    """As the command, systemctl neither soft-reboots nor uses kexec: the slot wouldn't change."""
    await logind.reboot_by_command(["sh", "-c", f"env > {tmp_path}/env"])
    told = (tmp_path / "env").read_text().splitlines()
    assert {"SYSTEMCTL_SKIP_AUTO_SOFT_REBOOT=1", "SYSTEMCTL_SKIP_AUTO_KEXEC=1"} <= set(told)


async def test_drain_that_was_cut_is_not_a_drain(tmp_path: Path) -> None:
    """A daemon that starts again in the middle of pre-reboot.d runs it once more, and heeds its failure."""
    hook(tmp_path, "pre-reboot.d", f"echo x >> {tmp_path}/ran; sleep 60")
    cut = asyncio.ensure_future(WholeHost(tmp_path).coordinator.step())
    while not (tmp_path / "ran").exists():
        await asyncio.sleep(0.01)
    cut.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cut
    hook(tmp_path, "pre-reboot.d", "exit 1")
    again = WholeHost(tmp_path)
    assert await again.step() == "drain"
    assert again.reboots == 0


async def test_drain_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    """After all hooks ended well, a daemon that starts again goes on from there."""
    hook(tmp_path, "pre-reboot.d", f"echo x >> {tmp_path}/ran")
    host = WholeHost(tmp_path)
    await host.drain.before({})
    await WholeHost(tmp_path).step()
    assert (tmp_path / "ran").read_text().split() == ["x"]


async def test_who_logs_in_during_the_drain_is_seen(tmp_path: Path) -> None:
    """With policy `block` the last look asks for people, too; the slot is given back, not kept for them."""
    host = WholeHost(tmp_path, policy="block")
    host.agent.on_look = lambda count: host.logind.people.add("ann") if count == 2 else None
    assert await host.step() == "blockers"
    assert host.reboots == 0
    assert await host.step(1) == "blockers"
    assert await host.phases() == {}
    host.logind.people.clear()
    assert (await host.step(1), host.reboots) == (None, 1)


async def test_silent_logind_blocks_where_people_do(tmp_path: Path) -> None:
    """Policy `block`, and nobody tells who is logged in: no reboot."""
    host = WholeHost(tmp_path, policy="block")
    host.logind.error = BusError("no answer")
    assert (await host.step(), host.reboots) == ("blockers", 0)


async def test_countdown_runs_once_while_the_ticket_is_waited_for(tmp_path: Path) -> None:
    """It doesn't begin anew at each look, and costs the place in the queue nothing."""
    host = WholeHost(tmp_path, policy="warn", grace_secs=15.0)
    host.logind.people.add("ann")
    other = Semaphore(host.store, host.clock, Identity("m2", "boot-9"))
    await other.lock_by_hand("m2")
    assert await host.step() == "blockers"
    assert await host.step(20) == "ticket"
    assert [await host.step(30) for _ in range(4)] == ["ticket"] * 4
    assert await host.phases() == {"m2": Phase.MANUAL, "m1": Phase.WAITING}
    await other.unlock_by_hand("m2", force=False)
    assert (await host.step(30), host.reboots) == (None, 1)


async def test_no_slot_is_held_while_people_are_waited_for(tmp_path: Path) -> None:
    """A slot that is there already is given back as soon as somebody is logged in."""
    host = WholeHost(tmp_path, policy="block")
    assert (await host.semaphore.acquire("1.0", "2.0")).granted
    host.logind.people.add("ann")
    assert await host.step() == "blockers"
    assert await host.phases() == {}


async def test_place_of_an_earlier_boot_is_left_when_nothing_is_wanted(tmp_path: Path) -> None:
    """It stands in front of everybody otherwise, for ever, where places have no lease."""
    before = WholeHost(tmp_path)
    await before.store.enqueue(Claim("m1", Phase.WAITING, "boot-0"))
    before.agent.view = IDLE
    await before.step()
    assert await before.phases() == {}


async def test_slot_of_a_daemon_that_ended_before_the_reboot_is_not_kept_for_ever(tmp_path: Path) -> None:
    """The next daemon of the same boot gives the reboot the time that it has, and then the slot back."""
    assert (await WholeHost(tmp_path).step()) is None
    again = WholeHost(tmp_path)
    (tmp_path / "hold").touch()
    await again.step()
    assert await again.phases() == {"m1": Phase.REBOOTING}
    await again.step(601)
    assert await again.phases() == {}


async def test_slot_is_not_kept_while_the_agent_is_gone(tmp_path: Path) -> None:
    """Others may use it; the place in the queue stays."""
    host = WholeHost(tmp_path)
    assert (await host.semaphore.acquire("1.0", "2.0")).granted
    host.agent.view = AgentView(problem="gone")
    assert await host.step() == "need"
    assert await host.phases() == {}


@pytest.mark.parametrize("closed", [True, False])
async def test_drained_host_comes_back_while_the_store_is_gone(tmp_path: Path, *, closed: bool) -> None:
    """At once when a gate closed, or when the store has been gone for about a minute."""
    hook(tmp_path, "pre-reboot.d", "true")
    hook(tmp_path, "post-boot.d", f"echo $LOCKD_EVENT >> {tmp_path}/ran")
    host = WholeHost(tmp_path)
    await host.drain.before({})
    (tmp_path / "tickets.json").write_text("{broken")
    if closed:
        (tmp_path / "hold").touch()
    for _look in range(1 if closed else 6):
        assert not (tmp_path / "ran").exists()
        await host.step(10)
    assert (tmp_path / "ran").read_text().split() == ["cancelled"]


async def test_bringing_back_is_tried_until_it_ends_well(tmp_path: Path) -> None:
    """A drained host that can't be brought back says so, and tries again at each look."""
    hook(tmp_path, "pre-reboot.d", "true")
    hook(tmp_path, "post-boot.d", f"test -e {tmp_path}/repaired")
    host = WholeHost(tmp_path)
    await host.drain.before({})
    host.agent.view = IDLE
    await host.step()
    assert host.gates()[-1] == "drain"
    assert "isn't back in service" in host.coordinator.view.gates[-1].reason
    (tmp_path / "repaired").touch()
    await host.step()
    assert "drain" not in host.gates()
    assert not host.drain.drained


async def test_failing_post_boot_is_shown_without_a_ticket_too(tmp_path: Path) -> None:
    """Whoever asks `lockctl explain` sees that the host isn't in service; while health is unknown nothing runs."""
    hook(tmp_path, "pre-reboot.d", "true")
    hook(tmp_path, "post-boot.d", f"echo x >> {tmp_path}/ran; exit 1")
    await WholeHost(tmp_path, boot="boot-0").drain.before({})
    host = WholeHost(tmp_path)
    host.agent.view = AgentView(known=True, version_booted="2.0", problem="not up yet")
    await host.step()
    assert not (tmp_path / "ran").exists()
    host.agent.view = IDLE
    await host.step()
    assert host.gates()[-1] == "post-boot"
