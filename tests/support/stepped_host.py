"""A host whose coordinator a test moves step by step: a real ticket file, an agent and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from lockd.agent import AgentView
from lockd.coordinator import Coordinator, Means, Policy
from lockd.errors import LocalError
from lockd.gates import closed_gate
from lockd.local import Local
from lockd.semaphore import Identity, Semaphore
from lockd.store_local import LocalStore
from lockd.tickets import Phase
from tests.support.moving_clock import MovingClock
from updated.common.notify import Notifier

IDLE = AgentView(known=True, version_booted="1.0", healthy=True)
WANTED = AgentView(known=True, need_reboot=True, version_new="2.0", version_booted="1.0", healthy=True)


class Agent:
    """Says `view`; `on_look` runs at each look, so that a test can move the world under the coordinator."""

    def __init__(self, view: AgentView) -> None:
        self.view = view
        self.looks = 0
        self.on_look: Callable[[int], None] = lambda _count: None

    async def look(self) -> AgentView:
        self.looks += 1
        self.on_look(self.looks)
        return self.view


class Host:
    """One daemon of a host; reboots are counted, and may be refused. `local` makes its rooms, if it has any."""

    def __init__(
        self,
        tmp_path: Path,
        view: AgentView,
        boot: str = "boot-1",
        *,
        local: Callable[[MovingClock], Local] | None = None,
        reboot: Callable[[], Awaitable[None]] | None = None,
        **policy: object,
    ) -> None:
        self.clock = MovingClock()
        self.agent = Agent(view)
        self.store = LocalStore(tmp_path / "tickets.json")
        self.reboots = 0
        self.reboot_error: LocalError | None = None
        settings = {"strategy": "local", "hold_file": tmp_path / "hold", **policy}
        identity = Identity("m1", boot, "m1.example")
        with_tickets = settings["strategy"] == "local"
        self.semaphore = Semaphore(self.store, self.clock, identity)
        means = Means(
            clock=self.clock,
            agent=self.agent,
            reboot=reboot or self._reboot,
            semaphore=self.semaphore if with_tickets else None,
            fraction=lambda: 0.5,
            notifier=Notifier(None),
            local=local(self.clock) if local else None,
        )
        made = Policy(group="g", **settings)  # type: ignore[arg-type]
        self.coordinator = Coordinator(made, means, machine_id="m1", boot_id=boot)

    async def _reboot(self) -> None:
        if self.reboot_error is not None:
            raise self.reboot_error
        self.reboots += 1

    async def step(self, secs: float = 0.0) -> str | None:
        """Let time pass and take a step; return the gate that blocks."""
        self.clock.advance(secs)
        await self.coordinator.step()
        gate = closed_gate(self.coordinator.view.gates)
        return gate.gate if gate else None

    async def phases(self) -> dict[str, Phase]:
        return {ticket.machine_id: ticket.claim.phase for ticket in (await self.store.read()).tickets}
