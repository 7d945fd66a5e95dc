"""A group of simulated hosts on a real etcd, over connections on which anything may happen to a request.

Hosts use the product's `Semaphore`, store and client. What is counted here is what an onlooker sees: who was told that
it may go down and hasn't come back healthy, and whom etcd itself calls rebooting.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from lockd.errors import LockdError
from lockd.etcd import EtcdClient
from lockd.semaphore import Identity, Semaphore, Standing
from lockd.store import EtcdStore
from lockd.tickets import Group, Phase
from tests.support.moving_clock import MovingClock
from tests.support.quick_http import QuickTransport, patient_client

FATES = ("arrives",) * 12 + ("answer lost", "request lost", "sent twice", "delayed", "delayed and sent twice")


class CountingTransport(QuickTransport):
    """Sends each request; `writes` counts those that may change something."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.writes += b"request_put" in request.content or b"request_delete" in request.content
        return await super().handle_async_request(request)


class CruelTransport(httpx.AsyncBaseTransport):
    """Does to each request what the dice say; what was delayed arrives at `deliver`."""

    def __init__(self, dice: random.Random, real: CountingTransport) -> None:
        self._dice, self._real = dice, real
        self.late: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fate = self._dice.choice(FATES)
        if fate == "request lost":
            raise httpx.ConnectError(fate, request=request)
        if fate.startswith("delayed"):
            self.late += [request] * (2 if "twice" in fate else 1)
            raise httpx.ReadTimeout(fate, request=request)
        if fate == "sent twice":
            await self._send(request)
        elif fate == "answer lost":
            await self._send(request)
            raise httpx.ReadError(fate, request=request)
        return await self._real.handle_async_request(request)

    async def deliver(self) -> None:
        """Let one delayed request arrive; nobody reads the answer."""
        if self.late:
            await self._send(self.late.pop(self._dice.randrange(len(self.late))))

    async def _send(self, request: httpx.Request) -> None:
        answer = await self._real.handle_async_request(request)
        await answer.aread()
        await answer.aclose()

    async def aclose(self) -> None:
        await self._real.aclose()


@dataclass(slots=True)
class Host:
    """One host: where it is, in which boot, and what it saw last."""

    name: str
    semaphore: Semaphore
    place: str = "idle"  # idle, want, down, up, ill
    boot: int = 1
    seen: Standing | None = None


class Fleet:
    """Four hosts and an operator on one group; `step` does one thing at random and logs what."""

    def __init__(self, endpoint: str, group: str, dice: random.Random) -> None:
        """Connect everybody: the hosts by bad connections, the operator and the onlooker by good ones."""
        self._group, self.dice = group, dice
        self._counted = CountingTransport(), CountingTransport()
        self.transport = CruelTransport(dice, self._counted[0])
        self._client = patient_client(endpoint, self.transport)
        self._onlooker = patient_client(endpoint, self._counted[1])
        self.operator = self._semaphore(self._onlooker, "operator", 1)
        self.hosts = [Host(name, self._semaphore(self._client, name, 1)) for name in ("m0", "m1", "m2", "m3")]
        self.log: list[str] = []

    def _semaphore(self, client: EtcdClient, name: str, boot: int) -> Semaphore:
        store = EtcdStore(client, prefix="/chaos", group=self._group, lease_ttl_secs=600)
        return Semaphore(store, MovingClock(), Identity(name, f"boot-{boot}"))

    async def close(self) -> None:
        await self._client.close()
        await self._onlooker.close()

    @property
    def writes(self) -> int:
        """Return how many requests went through that may have changed something."""
        return sum(transport.writes for transport in self._counted)

    async def look(self) -> Group:
        """Read the group as it is."""
        return await self.operator.read()

    def gone(self, group: Group) -> set[str]:
        """Return who is down or unwell, and who may go down at any moment."""
        gone = {host.name for host in self.hosts if host.place in ("down", "ill")}
        return gone | {ticket.machine_id for ticket in group.tickets if ticket.claim.phase is Phase.REBOOTING}

    async def step(self) -> None:
        """Let a host, the operator or the network do something."""
        act = self.dice.choices((self._host_step, self._operator_step, self.transport.deliver), (12, 1, 2))[0]
        await act()

    # ---- hosts

    async def _host_step(self) -> None:
        host = self.dice.choice(self.hosts)
        steps: dict[str, Callable[[Host], Awaitable[None]]] = {
            "idle": self._idle, "want": self._want, "down": self._down, "up": self._up, "ill": self._ill,
        }  # fmt: skip
        try:
            await steps[host.place](host)
        except LockdError as error:
            self.log.append(f"{host.name} {host.place}: {error.name}")

    async def _idle(self, host: Host) -> None:
        self._move(host, "want")

    async def _want(self, host: Host) -> None:
        act = self.dice.choices(("acquire", "commit", "undo", "give back", "crash"), (6, 5, 1, 1, 1))[0]
        self.log.append(f"{host.name}: {act}")
        if act == "acquire":
            host.seen = await host.semaphore.acquire("1", "2")
        elif act == "commit" and host.seen is not None:
            if await host.semaphore.commit(host.seen, "1", "2"):  # on what it saw once, however long ago
                self._move(host, "down")
        elif act == "undo":
            await host.semaphore.undo_commit()
        elif act == "give back" and host.seen is not None:
            if await host.semaphore.give_back(host.seen.ticket):
                self._move(host, "idle")
        elif act == "crash":
            self._boot(host, "up")

    async def _down(self, host: Host) -> None:
        self._boot(host, self.dice.choice(("up", "up", "up", "ill")))

    async def _up(self, host: Host) -> None:
        """Give back the slot of an earlier boot, as the coordinator does."""
        own = (await host.semaphore.read()).of(host.name)
        if own is not None and own.holds and own.claim.boot_id != host.semaphore.identity.boot_id:
            await host.semaphore.give_back(own)
        elif own is None or not own.holds:
            self._move(host, self.dice.choice(("idle", "want")))

    async def _ill(self, host: Host) -> None:
        own = (await host.semaphore.read()).of(host.name)
        if own is not None and own.claim.phase is not Phase.ROLLED_BACK:
            await host.semaphore.record_rollback(own, "did not boot well")
        else:
            await self._repair(host)

    async def _repair(self, host: Host) -> None:
        """The operator repairs a host, which is up then, and takes its ticket away."""
        self._boot(host, "up")
        with contextlib.suppress(LockdError):  # it has none
            await self.operator.unlock_by_hand(host.name, force=True)
        await self.operator.resume()

    def _move(self, host: Host, place: str) -> None:
        self.log.append(f"{host.name}: {host.place} -> {place}")
        host.place = place

    def _boot(self, host: Host, place: str) -> None:
        self._move(host, place)
        host.boot += 1
        host.seen = None
        host.semaphore = self._semaphore(self._client, host.name, host.boot)

    # ---- the operator

    async def _operator_step(self) -> None:
        act = self.dice.choice(("set-max", "pause", "resume", "resume", "lock", "unlock", "force"))
        self.log.append(f"operator: {act}")
        with contextlib.suppress(LockdError):  # refused: no slot is free, nothing is there to unlock
            if act == "set-max":
                await self.operator.set_max(self.dice.choice((1, 1, 2, 3)))
            elif act == "pause":
                await self.operator.pause(by="operator", reason="why not")
            elif act == "resume":
                await self.operator.resume()
            elif act == "lock":
                await self.operator.lock_by_hand("by-hand")
            elif act == "unlock":
                await self.operator.unlock_by_hand("by-hand", force=False)
            else:
                host = self.dice.choice(self.hosts)
                if host.place in ("idle", "want", "up"):  # it is up for sure, and hasn't heard that it may go
                    await self.operator.unlock_by_hand(host.name, force=True)

    # ---- the end

    async def settle(self, rounds: int = 60) -> None:
        """Let the connections be good again, and everybody finish; fail if anybody can't."""
        self.transport.late.clear()
        self.transport._dice = _Kind()
        with contextlib.suppress(LockdError):
            await self.operator.unlock_by_hand("by-hand", force=True)
        await self.operator.resume()
        for _round in range(rounds):
            for host in self.hosts:
                await self._finish(host)
            group = await self.look()
            if not group.tickets and all(host.place == "idle" for host in self.hosts):
                return
        raise AssertionError(f"stuck: {[(host.name, host.place) for host in self.hosts]}")

    async def _finish(self, host: Host) -> None:
        if host.place == "want":
            host.seen = await host.semaphore.acquire("1", "2")
            if await host.semaphore.commit(host.seen, "1", "2"):
                self._move(host, "down")
        elif host.place == "down":
            self._boot(host, "up")
        elif host.place == "ill":
            await self._repair(host)
        else:
            own = (await host.semaphore.read()).of(host.name)
            if own is not None:
                await host.semaphore.give_back(own)
            self._move(host, "idle")


class _Kind(random.Random):
    """Dice by which every request arrives."""

    def choice(self, seq: object) -> str:  # type: ignore[override]
        """Return the first fate."""
        del seq
        return FATES[0]
