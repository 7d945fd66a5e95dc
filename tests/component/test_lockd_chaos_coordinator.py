"""What the coordinator makes of an answer that got lost on its way: a slot that was taken is never forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockd.errors import ErrorCode, RemoteError
from lockd.store_local import LocalStore
from lockd.tickets import Claim, Group, Ticket
from tests.component.test_lockd_coordinator import IDLE, WANTED, Host


class ForgetfulStore(LocalStore):
    """Does what it is asked, and once loses the answer of the step that `loses` names."""

    loses = ""

    async def grant(self, seen: Group, ticket: Ticket, claim: Claim) -> Ticket | None:
        granted = await super().grant(seen, ticket, claim)
        self._lose(claim.phase.value)
        return granted

    def _lose(self, step: str) -> None:
        if step == self.loses:
            self.loses = ""
            raise RemoteError(ErrorCode.ETCD_UNREACHABLE, "the answer got lost", hint="")


@pytest.mark.parametrize("step", ["held", "rebooting"])
async def test_slot_whose_answer_got_lost_is_given_back(tmp_path: Path, step: str) -> None:
    """A slot that was taken without this host hearing of it is given back when the reboot isn't wanted any more."""
    host = Host(tmp_path, WANTED)
    store = ForgetfulStore(tmp_path / "tickets.json")
    host.store = host.semaphore.store = store
    store.loses = step
    await host.step()
    assert [phase.value for phase in (await host.phases()).values()] == [step]
    assert host.reboots == 0
    host.agent.view = IDLE
    await host.step()
    host.clock.advance(3600)
    await host.step()
    assert await host.phases() == {}
