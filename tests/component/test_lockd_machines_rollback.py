"""What a host that rolled back does with its slot, by the policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockd.agent import AgentView, Rollback
from lockd.config import load
from lockd.errors import LocalError
from lockd.semaphore import Identity, Semaphore
from lockd.tickets import Phase
from tests.component.test_lockd_coordinator import WANTED, Host

ROLLED_BACK = AgentView(known=True, version_booted="1.0", healthy=True, rollback=Rollback("2.0", "boot-2"))


async def gone_and_back(tmp_path: Path, *, keep: bool) -> Host:
    """Let a host go down for 2.0 and come back with 1.0."""
    before = Host(tmp_path, WANTED)
    await before.step()
    assert await before.phases() == {"m1": Phase.REBOOTING}
    after = Host(tmp_path, ROLLED_BACK, boot="boot-2")
    after.semaphore.keep_after_rollback = keep
    await after.step()
    return after


async def test_rolled_back_host_keeps_its_slot_by_default(tmp_path: Path) -> None:
    """Policy `pause`: the slot stays, the group is paused, and everybody sees why and by whom."""
    host = await gone_and_back(tmp_path, keep=True)
    group = await host.store.read()
    assert await host.phases() == {"m1": Phase.ROLLED_BACK}
    assert group.settings.pause is not None
    assert (group.settings.pause.by, "2.0 did not boot well" in group.settings.pause.reason) == ("m1", True)


async def test_rolled_back_host_gives_its_slot_back_if_told_so(tmp_path: Path) -> None:
    """Policy `release`: once the old version is up and healthy again the others go on."""
    host = await gone_and_back(tmp_path, keep=False)
    group = await host.store.read()
    assert (group.tickets, group.settings.pause) == ((), None)
    other = Semaphore(host.store, host.clock, Identity("m2", "boot-1"))
    assert (await other.acquire("1.0", "2.0")).granted


def test_unknown_policy_is_no_policy(tmp_path: Path) -> None:
    """A word that isn't known for `on_rollback` is an error, not a default."""
    (tmp_path / "lockd.toml").write_text('on_rollback = "continue"')
    with pytest.raises(LocalError, match="on_rollback must be pause or release"):
        load(tmp_path / "lockd.toml", {})
