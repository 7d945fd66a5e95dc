"""A bad verdict: what it costs, when it is final, when nothing may be rebooted for it; on a real partition table."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.disks import Bits, make_disk
from tests.support.moving_clock import MovingClock
from updated.agent.boot_work import BootWork
from updated.agent.context import Context, Means
from updated.agent.loop import Agent
from updated.agent.machine import Event, State
from updated.agent.memory import Memory, Store
from updated.agent.status import View, blocked_by
from updated.common.notify import Notifier
from updated.config import HealthSettings, HostSettings, Settings
from updated.confirm.rollback import Pending
from updated.errors import ErrorCode, LocalError
from updated.slots.boot.gptprio import GptPrio
from updated.slots.layout import HostPaths

PROVEN, TRIAL, EMPTY = Bits(1, 0, True), Bits(2, 2, False), Bits(0, 0, False)


class Host:
    """A machine that runs from slot B; each `boot` is an agent that has just been started in a boot."""

    def __init__(self, root: Path, *, a: Bits = PROVEN, b: Bits = TRIAL) -> None:
        self.root = root
        self.disk = make_disk(root / "disk", 64 * 1024, bits={"USR-A": a, "USR-B": b})
        self.slot = GptPrio(self.disk, booted_partuuids=()).slots()[1]
        (root / "machine-id").write_text(uuid.uuid4().hex + "\n")
        (root / "os-release").write_text("IMAGE_VERSION=1.1.0\n")
        self.reboots = 0

    def arm(self) -> None:
        """Let the agent remember that it has armed slot B."""
        pending = Pending("1.0.0", "1.1.0", "B", self.slot.partuuid, 1, "before", "2026-01-01T00:00:00Z", armed=True)
        self.store().save(Memory(pending=pending))

    def store(self) -> Store:
        (self.root / "state").mkdir(exist_ok=True)
        return Store(self.root / "state")

    def boot(self, boot_id: str, *, trial_boots: int = 1) -> tuple[BootWork, Event]:
        work = BootWork(self.context(boot_id, trial_boots=trial_boots))
        return work, work.recall()

    def context(self, boot_id: str, *, trial_boots: int = 1, check: str = "false") -> Context:
        (self.root / "boot_id").write_text(boot_id + "\n")
        settings = Settings(
            health=HealthSettings(units=(), commands=((check,),), deadline_secs=0.0, trial_boots=trial_boots),
            host=HostSettings(
                boot_id=self.root / "boot_id", machine_id=self.root / "machine-id", os_release=self.root / "os-release"
            ),
            state_dir=self.root / "state",
        )
        means = Means(
            settings=settings,
            clock=MovingClock(),
            boot=GptPrio(self.disk, booted_partuuids=(self.slot.partuuid,)),
            host=HostPaths(),
            store=self.store(),
            fraction=lambda: 0.0,
            reboot=self._reboot,
        )
        return Context(means)

    async def _reboot(self, _alive: Callable[[], None]) -> None:
        self.reboots += 1

    def bits(self) -> tuple[int, int, bool]:
        slot = GptPrio(self.disk, booted_partuuids=()).slots()[1]
        return slot.priority, slot.tries, slot.successful


def new_boot() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize("remembered", [True, False])
async def test_one_verdict_spends_the_tries(tmp_path: Path, *, remembered: bool) -> None:
    """By default one bad verdict ends the trial, also where the state was lost since the slot was armed."""
    host = Host(tmp_path)
    if remembered:
        host.arm()
    work, found = host.boot(new_boot())
    assert found is Event.BOOT_UNJUDGED
    assert await work.judge_health() == (Event.LOST_TRIAL,)
    assert host.bits() == (2, 2, False)
    assert await work.give_up() == (Event.GIVEN_UP,)
    assert host.bits() == (2, 0, False)
    await work.fall_back()
    assert host.reboots == 1


async def test_more_boots_where_somebody_wants_them(tmp_path: Path) -> None:
    """With two trial boots the first bad one leaves the tries alone; a restart of the agent in it counts no second."""
    host = Host(tmp_path)
    host.arm()
    first = new_boot()
    work, _ = host.boot(first, trial_boots=2)
    assert await work.judge_health() == (Event.UNHEALTHY_TRIAL,)
    work, found = host.boot(first, trial_boots=2)
    assert found is Event.UNHEALTHY_TRIAL
    work, found = host.boot(new_boot(), trial_boots=2)
    assert found is Event.BOOT_UNJUDGED
    assert await work.judge_health() == (Event.LOST_TRIAL,)


async def test_verdict_stands_when_the_agent_is_started_again(tmp_path: Path) -> None:
    """A boot that was judged bad isn't judged once more while its reboot is on its way."""
    host = Host(tmp_path)
    host.arm()
    boot = new_boot()
    work, _ = host.boot(boot)
    await work.judge_health()
    assert host.boot(boot)[1] is Event.LOST_TRIAL


@pytest.mark.parametrize(("a", "b"), [(EMPTY, TRIAL), (Bits(1, 1, False), TRIAL), (PROVEN, Bits(2, 0, True))])
async def test_nothing_to_fall_back_to_is_no_reason_to_reboot(tmp_path: Path, a: Bits, b: Bits) -> None:
    """Where the other slot is empty or unproven, or this one isn't on trial, the host stays up and says so."""
    host = Host(tmp_path, a=a, b=b)
    work, _ = host.boot(new_boot())
    with pytest.raises(LocalError) as caught:
        await work.judge_health()
    assert caught.value.code is ErrorCode.HEALTH_FAILED
    assert host.bits() == (b.priority, b.tries, b.successful)
    with pytest.raises(LocalError):
        await work.fall_back()
    assert host.reboots == 0


async def test_trial_that_was_marked_good_meanwhile_is_no_endless_reboot(tmp_path: Path) -> None:
    """Where the boot loader takes the bad slot for proven and its tries can't be spent, giving up is an error."""
    host = Host(tmp_path, b=Bits(2, 0, True))
    host.arm()
    work, _ = host.boot(new_boot())
    assert await work.judge_health() == (Event.LOST_TRIAL,)
    with pytest.raises(LocalError) as caught:
        await work.give_up()
    assert caught.value.code is ErrorCode.BOOT_CONTROL
    assert host.bits() == (2, 0, True)


async def test_full_state_directory_costs_no_further_boots(tmp_path: Path) -> None:
    """A verdict that can't be written down is final: no boot after boot because nobody remembers them."""
    host = Host(tmp_path)
    host.arm()
    work, _ = host.boot(new_boot(), trial_boots=3)
    (tmp_path / "state").rename(tmp_path / "gone")
    (tmp_path / "state").write_text("no directory")
    assert await work.judge_health() == (Event.LOST_TRIAL,)


async def test_boot_that_cannot_be_remembered_is_tried_again(tmp_path: Path) -> None:
    """A healthy boot that can't be confirmed for now is told as that, and confirmed within minutes once it can be."""
    host = Host(tmp_path)
    host.arm()
    in_the_way = host.root / "state/rollback-floor"
    in_the_way.mkdir()
    agent = Agent(host.context(new_boot(), check="true"), Notifier(None))
    seen: list[tuple[str, str | None]] = []

    def follow(view: View) -> None:
        if view.state is State.UNHEALTHY and view.last_error and in_the_way.exists():
            seen.append((blocked_by(view) or "", view.next_check))
            in_the_way.rmdir()

    agent.listen(follow)
    running = asyncio.create_task(agent.run())
    while not agent.view.boot_confirmed:
        await asyncio.sleep(0.01)
        if running.done():
            running.result()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ((why, again),) = seen
    assert why.startswith("this boot passed its health gate and can't be confirmed: the rollback floor")
    assert again is not None
    wait = datetime.fromisoformat(again) - MovingClock().now()
    assert wait.total_seconds() <= 400, "the gate's own time and five minutes"
    assert host.bits()[2]
