"""A reboot that is refused: an hour on a moved clock, in which every drain and every question to logind is counted.

One host with real hooks and a real ticket file; logind's answers are the test's, in the form that systemd 252 gives
them on a system bus with and without polkit.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from lockd.blockers import Blockers
from lockd.drain import Drain
from lockd.errors import ErrorCode, RefusedError
from lockd.gates import closed_gate
from lockd.local import Local
from lockd.local_settings import AlertSettings, HookSettings, SessionSettings
from lockd.logind import reboot_by_logind
from lockd.people import People
from lockd.permission import Permission
from lockd.setback import LIMIT_SECS, Setback
from lockd.tickets import Phase
from lockd.waiting import Waiting
from tests.support.moving_clock import MovingClock
from tests.support.stepped_host import IDLE, WANTED, Host
from updated.common.bus import Bus, BusCallError

FREEDESKTOP = "org.freedesktop.DBus.Error"
DENIED = BusCallError(f"{FREEDESKTOP}.AccessDenied", "Permission denied")
MASKED = BusCallError("org.freedesktop.systemd1.UnitMasked", "Unit polkit.service is masked.")
INHIBITED = BusCallError("org.freedesktop.login1.BlockedByInhibitorLock", "Operation denied due to active block")
SLOW = BusCallError(f"{FREEDESKTOP}.TimedOut", "Failed to activate service 'org.freedesktop.PolicyKit1': timed out")


class Gatekeeper:
    """logind and the bus daemon: answers as it is told, and counts what it is asked."""

    def __init__(self, can: str | BusCallError = "yes", reboot: BusCallError | None = None) -> None:
        self.can, self.reboot = can, reboot
        self.polkit = True
        self.asked: Counter[str] = Counter()

    async def owner(self, _name: str) -> str | None:
        return ":1.7" if self.polkit else None

    async def call(self, _destination: str, _path: str, _interface: str, member: str, *_more: Any) -> list[Any]:
        self.asked[member] += 1
        answer: str | list[str] | BusCallError | None = []
        if member == "CanReboot":
            answer = self.can
        elif member == "Reboot":
            answer = self.reboot
        if isinstance(answer, BusCallError):
            raise answer
        return [answer]


class Machine(Host):
    """A host whose reboot goes by `logind`, with hooks that write down that they ran."""

    def __init__(self, root: Path, logind: Gatekeeper) -> None:
        self.root, self.logind = root, logind
        bus = cast("Bus", logind)
        hooks = HookSettings(dirs=(root / "hooks",))
        for folder in ("pre-reboot.d", "post-boot.d"):
            hook = root / "hooks" / folder / "10-hook"
            hook.parent.mkdir(parents=True, exist_ok=True)
            hook.write_text(f"#!/bin/sh\necho $LOCKD_EVENT >> {root}/ran\n")
            hook.chmod(0o755)

        def rooms(clock: MovingClock) -> Local:
            permission = Permission(clock, bus)
            return Local(
                blockers=Blockers(clock, bus, (hooks, AlertSettings()), {}, permission=permission),
                people=People(clock, bus, SessionSettings("ignore"), "m1"),
                drain=Drain(hooks, root / "drained.json", "boot-1"),
                waiting=Waiting(root / "waiting.json"),
                env={},
            )

        super().__init__(root, WANTED, local=rooms, reboot=lambda: reboot_by_logind(bus))

    async def pass_time(self, secs: float) -> None:
        """Step for so long, resting as the coordinator wants to."""
        end = self.clock.monotonic() + secs
        while self.clock.monotonic() < end:
            self.clock.advance(max(await self.coordinator.step(), 0.1))

    def ran(self) -> list[str]:
        file = self.root / "ran"
        return file.read_text().split() if file.exists() else []

    def reason(self) -> str:
        gate = closed_gate(self.coordinator.view.gates)
        return f"{gate.gate}: {gate.reason} ... {gate.ends}" if gate else ""


@pytest.mark.parametrize(
    ("can", "polkit", "words"),
    [
        (DENIED, False, "polkit isn't on the bus"),
        (DENIED, True, "polkit forbids"),
        (MASKED, True, "polkit can't be asked: Unit polkit.service is masked"),
        (SLOW, True, "polkit can't be asked: Failed to activate"),
        ("challenge", True, "polkit has no rule"),
        ("no", True, "polkit forbids"),
        ("na", True, "can't be rebooted"),
    ],
)
async def test_hour_without_permission_drains_nothing(
    tmp_path: Path, can: str | BusCallError, words: str, *, polkit: bool
) -> None:
    """A host that logind wouldn't reboot runs no hook, takes no slot, asks a dozen times an hour, and says why."""
    logind = Gatekeeper(can)
    logind.polkit = polkit
    machine = Machine(tmp_path, logind)
    await machine.pass_time(3600)
    assert words in machine.reason()
    assert (machine.ran(), await machine.phases(), logind.asked["Reboot"]) == ([], {}, 0)
    assert 5 <= logind.asked["CanReboot"] <= 12
    logind.can = "yes"
    await machine.pass_time(700)
    assert (machine.ran(), logind.asked["Reboot"]) == (["pre-reboot"], 1)


@pytest.mark.parametrize("error", [INHIBITED, DENIED], ids=lambda error: error.name)
async def test_hour_of_refusals_is_three_drains(tmp_path: Path, error: BusCallError) -> None:
    """A reboot that is refused though it was allowed: a drain and a request at 0, 10 and 30 minutes, each undone."""
    logind = Gatekeeper(reboot=error)
    machine = Machine(tmp_path, logind)
    await machine.step()
    assert machine.ran() == ["pre-reboot", "cancelled"]
    assert await machine.step(30) == "blockers"
    assert await machine.phases() == {}, "the slot is given back while the host waits"
    await machine.pass_time(3570)
    assert machine.ran() == ["pre-reboot", "cancelled"] * 3
    assert (logind.asked["Reboot"], await machine.phases()) == (3, {})
    assert "the reboot was refused" in machine.reason()
    assert "3 times in a row" in machine.reason()
    logind.reboot = None
    machine.coordinator._around.forgive()  # as a person's request does
    await machine.step()
    assert (logind.asked["Reboot"], await machine.phases()) == (4, {"m1": Phase.REBOOTING})


async def test_shutdown_that_is_under_way_is_no_refusal(tmp_path: Path) -> None:
    """Logind that has a shutdown in progress takes the host down: it stays drained and keeps its slot."""
    logind = Gatekeeper(reboot=BusCallError("org.freedesktop.login1.OperationInProgress", "There's already a shutdown"))
    machine = Machine(tmp_path, logind)
    await machine.pass_time(500)
    assert (machine.ran(), await machine.phases()) == (["pre-reboot"], {"m1": Phase.REBOOTING})
    assert logind.asked["Reboot"] == 1


async def test_no_answer_from_logind_is_a_doubt(tmp_path: Path) -> None:
    """An error that only says that nobody answered doesn't prove that the reboot won't come."""
    logind = Gatekeeper(reboot=BusCallError(f"{FREEDESKTOP}.NoReply", "Message recipient disconnected"))
    machine = Machine(tmp_path, logind)
    await machine.pass_time(500)
    assert (machine.ran(), await machine.phases()) == (["pre-reboot"], {"m1": Phase.REBOOTING})


async def test_reboot_that_is_not_wanted_any_more_ends_the_row(tmp_path: Path) -> None:
    """After a time without need the next refusal waits as long as a first one."""
    logind = Gatekeeper(reboot=INHIBITED)
    machine = Machine(tmp_path, logind)
    await machine.pass_time(3600)
    machine.agent.view = IDLE
    await machine.step()
    machine.agent.view = WANTED
    await machine.step()
    asked = logind.asked["Reboot"]
    await machine.pass_time(660)
    assert logind.asked["Reboot"] == asked + 1


def test_waits_grow_to_six_hours_and_no_further() -> None:
    """Each failure in a row doubles the wait, up to the limit; another version begins anew."""
    setback, clock = Setback(600.0), MovingClock()
    error = RefusedError(ErrorCode.REBOOT_REFUSED, "no", hint="Repair it.")
    waits = [setback.add("reboot", error, version="2", now=clock.now(), monotonic=0.0) for _ in range(9)]
    assert waits == [600, 1200, 2400, 4800, 9600, 19200, LIMIT_SECS, LIMIT_SECS, LIMIT_SECS]
    assert setback.blocker("2", LIMIT_SECS - 1) != ()
    assert setback.blocker("2", LIMIT_SECS) == ()
    assert setback.blocker("3", 1.0) == (), "what failed on the way to another version says nothing about this one"
    assert setback.add("reboot", error, version="3", now=clock.now(), monotonic=0.0) == 600
