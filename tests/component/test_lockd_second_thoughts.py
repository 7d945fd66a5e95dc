"""What happens on the way to a reboot that is in doubt, cut short, or not wanted any more: nobody too many goes down.

One host with all its rooms: real hooks, a real ticket file; agent, clock and logind's answers are the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from dbus_next import Variant

from lockd import logind
from lockd.agent import AgentView
from lockd.blockers import Blockers
from lockd.coordinator import Coordinator, Means, Policy
from lockd.drain import Drain
from lockd.errors import ErrorCode, LocalError
from lockd.gates import closed_gate
from lockd.local import Local
from lockd.local_settings import AlertSettings, HookSettings, SessionSettings
from lockd.people import People
from lockd.semaphore import Identity, Semaphore
from lockd.store_local import LocalStore
from lockd.tickets import Claim, Phase
from lockd.waiting import Waiting
from tests.support.moving_clock import MovingClock
from updated.common.bus import BusError
from updated.common.notify import Notifier

WANTED = AgentView(known=True, need_reboot=True, version_new="2.0", version_booted="1.0", healthy=True)
IDLE = AgentView(known=True, version_booted="1.0", healthy=True)


class Logind:
    """Answers who is logged in."""

    def __init__(self) -> None:
        self.people: set[str] = set()
        self.error: Exception | None = None

    async def call(self, _destination: str, _path: str, _interface: str, member: str, *_more: Any) -> list[Any]:
        if self.error is not None:
            raise self.error
        if member == "ListSessions":
            return [[[name, 1000, name, "", f"/session/{name}"] for name in sorted(self.people)]]
        if member == "GetAll":
            return [{"Class": Variant("s", "user"), "State": Variant("s", "active"), "TTY": Variant("s", "pts/0")}]
        return [[]]


class Host:
    """One daemon of a host; `reboots` counts how often it was told to go down."""

    def __init__(self, root: Path, *, boot: str = "boot-1", name: str = "m1", **sessions: Any) -> None:
        self.root, self.clock, self.view, self.logind = root, MovingClock(), WANTED, Logind()
        self.looks, self.reboots = 0, 0
        self.reboot_error: LocalError | None = None
        self.on_second_look = lambda: None
        self.semaphore = Semaphore(LocalStore(root / "tickets.json"), self.clock, Identity(name, boot))
        (root / "hooks").mkdir(exist_ok=True)
        hooks = HookSettings(dirs=(root / "hooks",))
        bus: Any = self.logind
        self.local = Local(
            blockers=Blockers(self.clock, bus, (hooks, AlertSettings()), {}),
            people=People(self.clock, bus, SessionSettings(wall_command=(), **sessions), name),
            drain=Drain(hooks, root / f"{name}-drained.json", boot),
            waiting=Waiting(root / f"{name}-waiting.json"),
            env={},
        )
        means = Means(self.clock, self, self._reboot, self.semaphore, lambda: 0.5, Notifier(None), self.local)
        policy = Policy("local", "g", hold_file=root / f"{name}-hold")
        self.coordinator = Coordinator(policy, means, machine_id=name, boot_id=boot)

    async def look(self) -> AgentView:
        self.looks += 1
        if self.looks == 2:
            self.on_second_look()
        return self.view

    async def _reboot(self) -> None:
        if self.reboot_error is not None:
            raise self.reboot_error
        self.reboots += 1

    async def step(self, secs: float = 0.0) -> str:
        """Let time pass, take a step; return the gate that blocks, or nothing."""
        self.clock.advance(secs)
        await self.coordinator.step()
        gate = closed_gate(self.coordinator.view.gates)
        return gate.gate if gate else ""

    async def phases(self) -> dict[str, Phase]:
        return {ticket.machine_id: ticket.claim.phase for ticket in (await self.semaphore.read()).tickets}

    def gates(self) -> list[str]:
        return [gate.gate for gate in self.coordinator.view.gates]


def hook(root: Path, folder: str, text: str) -> None:
    path = root / "hooks" / folder / "10-hook"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def test_reboot_without_an_answer_keeps_its_slot(tmp_path: Path) -> None:
    """It may come about all the same: whatever gate closes then, the slot stays until it must have come to nothing."""
    host = Host(tmp_path)
    host.reboot_error = LocalError(ErrorCode.REBOOT_IN_DOUBT, "no answer", hint="wait")
    assert await host.step() == "reboot"
    (tmp_path / "m1-hold").touch()
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
    monkeypatch.setattr(logind, "COMMAND_SECS", 0.2)
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
    cut = asyncio.ensure_future(Host(tmp_path).coordinator.step())
    while not (tmp_path / "ran").exists():
        await asyncio.sleep(0.01)
    cut.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cut
    hook(tmp_path, "pre-reboot.d", "exit 1")
    again = Host(tmp_path)
    assert await again.step() == "drain"
    assert again.reboots == 0


async def test_drain_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    """After all hooks ended well, a daemon that starts again goes on from there."""
    hook(tmp_path, "pre-reboot.d", f"echo x >> {tmp_path}/ran")
    host = Host(tmp_path)
    await host.local.drain.before({})
    await Host(tmp_path).step()
    assert (tmp_path / "ran").read_text().split() == ["x"]


async def test_who_logs_in_during_the_drain_is_seen(tmp_path: Path) -> None:
    """With policy `block` the last look asks for people, too; the slot is given back, not kept for them."""
    host = Host(tmp_path, policy="block")
    host.on_second_look = lambda: host.logind.people.add("ann")
    assert await host.step() == "blockers"
    assert host.reboots == 0
    assert await host.step(1) == "blockers"
    assert await host.phases() == {}
    host.logind.people.clear()
    assert (await host.step(1), host.reboots) == ("", 1)


async def test_silent_logind_blocks_where_people_do(tmp_path: Path) -> None:
    """Policy `block`, and nobody tells who is logged in: no reboot."""
    host = Host(tmp_path, policy="block")
    host.logind.error = BusError("no answer")
    assert (await host.step(), host.reboots) == ("blockers", 0)


async def test_countdown_runs_once_while_the_ticket_is_waited_for(tmp_path: Path) -> None:
    """It doesn't begin anew at each look, and costs the place in the queue nothing."""
    host = Host(tmp_path, policy="warn", grace_secs=15.0)
    host.logind.people.add("ann")
    other = Semaphore(host.semaphore.store, host.clock, Identity("m2", "boot-9"))
    await other.lock_by_hand("m2")
    assert await host.step() == "blockers"
    assert await host.step(20) == "ticket"
    assert [await host.step(30) for _ in range(4)] == ["ticket"] * 4
    assert await host.phases() == {"m2": Phase.MANUAL, "m1": Phase.WAITING}
    await other.unlock_by_hand("m2", force=False)
    assert (await host.step(30), host.reboots) == ("", 1)


async def test_no_slot_is_held_while_people_are_waited_for(tmp_path: Path) -> None:
    """A slot that is there already is given back as soon as somebody is logged in."""
    host = Host(tmp_path, policy="block")
    assert (await host.semaphore.acquire("1.0", "2.0")).granted
    host.logind.people.add("ann")
    assert await host.step() == "blockers"
    assert await host.phases() == {}


async def test_place_of_an_earlier_boot_is_left_when_nothing_is_wanted(tmp_path: Path) -> None:
    """It stands in front of everybody otherwise, for ever, where places have no lease."""
    before = Host(tmp_path)
    await before.semaphore.store.enqueue(Claim("m1", Phase.WAITING, "boot-0"))
    before.view = IDLE
    await before.step()
    assert await before.phases() == {}


async def test_slot_of_a_daemon_that_ended_before_the_reboot_is_not_kept_for_ever(tmp_path: Path) -> None:
    """The next daemon of the same boot gives the reboot the time that it has, and then the slot back."""
    assert (await Host(tmp_path).step()) == ""
    again = Host(tmp_path)
    (tmp_path / "m1-hold").touch()
    await again.step()
    assert await again.phases() == {"m1": Phase.REBOOTING}
    await again.step(601)
    assert await again.phases() == {}


async def test_slot_is_not_kept_while_the_agent_is_gone(tmp_path: Path) -> None:
    """Others may use it; the place in the queue stays."""
    host = Host(tmp_path)
    assert (await host.semaphore.acquire("1.0", "2.0")).granted
    host.view = AgentView(problem="gone")
    assert await host.step() == "need"
    assert await host.phases() == {}


@pytest.mark.parametrize("closed", [True, False])
async def test_drained_host_comes_back_while_the_store_is_gone(tmp_path: Path, *, closed: bool) -> None:
    """At once when a gate closed, or when the store has been gone for about a minute."""
    hook(tmp_path, "pre-reboot.d", "true")
    hook(tmp_path, "post-boot.d", f"echo $LOCKD_EVENT >> {tmp_path}/ran")
    host = Host(tmp_path)
    await host.local.drain.before({})
    (tmp_path / "tickets.json").write_text("{broken")
    if closed:
        (tmp_path / "m1-hold").touch()
    for _look in range(1 if closed else 6):
        assert not (tmp_path / "ran").exists()
        await host.step(10)
    assert (tmp_path / "ran").read_text().split() == ["cancelled"]


async def test_bringing_back_is_tried_until_it_ends_well(tmp_path: Path) -> None:
    """A drained host that can't be brought back says so, and tries again at each look."""
    hook(tmp_path, "pre-reboot.d", "true")
    hook(tmp_path, "post-boot.d", f"test -e {tmp_path}/repaired")
    host = Host(tmp_path)
    await host.local.drain.before({})
    host.view = IDLE
    await host.step()
    assert host.gates()[-1] == "drain"
    assert "isn't back in service" in host.coordinator.view.gates[-1].reason
    (tmp_path / "repaired").touch()
    await host.step()
    assert "drain" not in host.gates()
    assert not host.local.drain.drained


async def test_failing_post_boot_is_shown_without_a_ticket_too(tmp_path: Path) -> None:
    """Whoever asks `lockctl explain` sees that the host isn't in service; while health is unknown nothing runs."""
    hook(tmp_path, "pre-reboot.d", "true")
    hook(tmp_path, "post-boot.d", f"echo x >> {tmp_path}/ran; exit 1")
    await Host(tmp_path, boot="boot-0").local.drain.before({})
    host = Host(tmp_path)
    host.view = AgentView(known=True, version_booted="2.0", problem="not up yet")
    await host.step()
    assert not (tmp_path / "ran").exists()
    host.view = IDLE
    await host.step()
    assert host.gates()[-1] == "post-boot"
