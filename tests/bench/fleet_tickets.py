"""The fleet with the product's tickets."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from lockd import etcd_codec as codec
from lockd.errors import LockdError
from lockd.etcd import EtcdClient, EtcdOptions
from lockd.semaphore import NOTHING_SEEN, Identity, Semaphore, Standing
from lockd.store import EtcdStore
from lockd.tickets import Group
from tests.support.bare_http import BareTransport
from tests.support.moving_clock import MovingClock

DOWN_SECS = 1.2  # 60 s, 1:50
WATCH_SECS = 30.0  # as lockd does: then it renews its lease, looks, and watches again
SPREAD_SECS = 0.01  # for each host: 1,000 come to want it within 10 s
AGAIN_SECS = 1.0  # after a fault
PATIENCE_SECS = 600.0  # with one request: everybody shares one process and one etcd
BOOT = "00000000-0000-4000-8000-000000000001"


@dataclass(frozen=True)
class Load:
    """How many want to reboot at once, how many may at a time, how long each is down, when to give up."""

    waiters: int
    limit: int
    secs: float
    down_secs: float = DOWN_SECS
    watch_secs: float = WATCH_SECS


@dataclass
class Tally:
    """What was counted."""

    granted: int = 0
    requests: int = 0
    compare_failures: int = 0
    inversions: int = 0
    by_time: int = 0  # of the requests, those that are only there because the wait was long
    faults: int = 0  # requests that etcd failed: it was too busy
    numbers: dict[str, int] = field(default_factory=dict)  # of those who wait: their place in the queue
    order: list[int] = field(default_factory=list)  # the same places, sorted

    def join(self, name: str, number: int) -> None:
        """Note that a host waits at this place."""
        if self.numbers.get(name) != number:
            self._leave(name)
            self.numbers[name] = number
            bisect.insort(self.order, number)

    def go(self, name: str, limit: int) -> None:
        """Count a host that goes down, and whether it goes out of turn: with `limit` or more ahead of it."""
        self.inversions += self._leave(name) >= limit
        self.granted += 1

    def _leave(self, name: str) -> int:
        """Forget a host, if it is there; return how many were ahead of it."""
        if name not in self.numbers:
            return 0
        ahead = bisect.bisect_left(self.order, self.numbers.pop(name))
        del self.order[ahead]
        return ahead


@dataclass
class Waiter:
    """One host, and where it stood when its last wait ended by the time, and by nothing that happened."""

    semaphore: Semaphore
    client: CountingClient
    timed_out: Standing | None = None

    @property
    def name(self) -> str:
        """Its machine id."""
        return self.semaphore.identity.machine_id


class CountingClient(EtcdClient):
    """Counts transactions that wanted to write, and whose comparison failed."""

    compare_failures = 0

    async def txn(
        self, compares: Sequence[codec.Json], operations: Sequence[codec.Json], otherwise: Sequence[codec.Json] = ()
    ) -> codec.TxnAnswer:
        answer = await super().txn(compares, operations, otherwise)
        self.compare_failures += not answer.succeeded and any("request_range" not in one for one in operations)
        return answer


async def run_tickets(endpoint: str, load: Load, dice: random.Random) -> Tally:
    """Let everybody reboot once, or as many as the time allows."""
    tally = Tally()
    clients = [connect(endpoint) for _ in range(load.waiters + 1)]
    await _semaphore(clients[0], "operator", load).set_max(load.limit)
    hosts = [Waiter(_semaphore(client, f"{place:032x}", load), client) for place, client in enumerate(clients[1:], 1)]
    dice.shuffle(hosts)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(load.secs):
            await asyncio.gather(*(_reboot(host, load, tally, dice.random()) for host in hosts))
    tally.requests = sum(client.requests for client in clients)
    tally.compare_failures = sum(client.compare_failures for client in clients)
    await asyncio.gather(*(client.close() for client in clients))
    return tally


def connect(endpoint: str) -> CountingClient:
    http = httpx.AsyncClient(transport=BareTransport(), trust_env=False, timeout=PATIENCE_SECS)
    return CountingClient(EtcdOptions((endpoint,), request_timeout_secs=PATIENCE_SECS), http)


def _semaphore(client: EtcdClient, name: str, load: Load) -> Semaphore:
    store = EtcdStore(client, prefix="/fleet", group="web", lease_ttl_secs=int(load.watch_secs) * 10)
    return Semaphore(store, MovingClock(), Identity(name, BOOT, f"host-{name[-5:]}.example.org"))


async def _reboot(host: Waiter, load: Load, tally: Tally, fraction: float) -> None:
    await asyncio.sleep(fraction * load.waiters * SPREAD_SECS)
    seen: Group | None = NOTHING_SEEN  # as a daemon does that has no ticket
    while not await _approach(host, seen, tally, load.watch_secs):
        seen = None
    tally.go(host.name, load.limit)
    await asyncio.sleep(load.down_secs)
    while not await _give_back(host, tally):
        await asyncio.sleep(AGAIN_SECS)


async def _approach(host: Waiter, seen: Group | None, tally: Tally, watch_secs: float) -> bool:
    """Take the steps that are possible now, and wait for the next one; True when this host goes down.

    What a host sends after a wait that ended by the time, up to the end of its next wait, is there by time: without
    that end its watch would still have been open.
    """
    before, timed_out, semaphore = host.client.requests, host.timed_out, host.semaphore
    try:
        if timed_out:
            await semaphore.store.keep(timed_out.ticket)
        standing = await semaphore.acquire("4230.2.1", "4230.2.2", seen=seen)
        tally.join(host.name, standing.ticket.create_revision)
        if await semaphore.commit(standing, "4230.2.1", "4230.2.2"):
            return True
        in_vain = await _wait_turn(semaphore, standing, watch_secs)
        tally.by_time += host.client.requests - before if timed_out else 0
        host.timed_out = standing if in_vain else None
    except LockdError:
        tally.faults += 1
        await asyncio.sleep(AGAIN_SECS)
    return False


async def _wait_turn(host: Semaphore, standing: Standing, watch_secs: float) -> bool:
    """Wait for something to change; tell whether it was in vain."""
    end = asyncio.get_running_loop().time() + watch_secs
    await host.store.wait_turn(standing.group, standing.ticket, watch_secs)
    return asyncio.get_running_loop().time() >= end


async def _give_back(host: Waiter, tally: Tally) -> bool:
    """Give the slot back, as after the boot."""
    try:
        own = (await host.semaphore.look()).of(host.name)
        return own is None or await host.semaphore.give_back(own)
    except LockdError:
        tally.faults += 1
        return False
