"""One round of a fleet through the queue on a cluster that is being broken: counted by an onlooker, not by etcd."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import httpx

from lockd.errors import LockdError
from lockd.etcd import EtcdClient, EtcdOptions
from lockd.semaphore import Identity, Semaphore, Standing
from lockd.store import EtcdStore
from tests.support.etcd_cluster import Cluster, Member
from tests.support.moving_clock import MovingClock
from tests.support.quick_http import QuickTransport

T = TypeVar("T")
DOWN_SECS = (0.01, 0.08)  # a reboot
BROKEN_SECS = (0.1, 1.2)  # a member is gone; elections take half a second
AGAIN_SECS = 0.05
REQUEST_SECS = 1.0
TTL_SECS = 3600  # no ticket expires, however slow the machine is: then a lost place is a fault


class Counted(QuickTransport):
    """Connections that count the requests which a broken member failed: refused, cut, unanswered, or with a 5xx."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await super().handle_async_request(request)
        except httpx.TransportError:
            self._note()
            raise
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            self._note()
        return response


class Round:
    """Some hosts that all want to reboot, at most `limit` at once; `problems` is what was seen that mustn't be."""

    def __init__(self, endpoints: Sequence[str], group: str, dice: random.Random, *, hosts: int, limit: int) -> None:
        self._endpoints, self._group, self._dice, self._limit = endpoints, group, dice, limit
        self._names = [f"m{number}" for number in range(hosts)]
        self._numbers: dict[str, int] = {}  # the place in the queue that each host saw for itself
        self._down: set[str] = set()
        self.done: list[str] = []
        self.most = 0
        self.failures = 0  # requests that a member failed
        self.problems: list[str] = []

    async def run(self, secs: float) -> None:
        """Let everybody reboot; raise TimeoutError when somebody starves."""
        operator = self._semaphore("operator", 1)
        await _until(lambda: operator.set_max(self._limit))
        async with asyncio.timeout(secs):
            await asyncio.gather(*map(self._reboot, self._names))
        await operator.store.close()

    def _semaphore(self, name: str, boot: int) -> Semaphore:
        endpoints = list(self._endpoints)
        self._dice.shuffle(endpoints)
        http = httpx.AsyncClient(transport=Counted(self._note_failure), trust_env=False, timeout=REQUEST_SECS)
        client = EtcdClient(EtcdOptions(tuple(endpoints), request_timeout_secs=REQUEST_SECS), http)
        store = EtcdStore(client, prefix="/rounds", group=self._group, lease_ttl_secs=TTL_SECS)
        return Semaphore(store, MovingClock(), Identity(name, f"boot-{boot}"))

    def _note_failure(self) -> None:
        self.failures += 1

    @property
    def is_over(self) -> bool:
        """Whether everybody has rebooted."""
        return len(self.done) == len(self._names)

    async def _reboot(self, name: str) -> None:
        before = self._semaphore(name, 1)
        await self._go_down(before, name)
        await before.store.close()
        self._went(name)
        await asyncio.sleep(self._dice.uniform(*DOWN_SECS))
        self._down.discard(name)
        self.done.append(name)
        after = self._semaphore(name, 2)
        await _until(lambda: self._come_back(after, name))
        await after.store.close()

    async def _go_down(self, semaphore: Semaphore, name: str) -> None:
        while True:
            try:
                standing = await semaphore.acquire("1", "2")
                self._note_place(name, standing.ticket.create_revision)
                if await semaphore.commit(standing, "1", "2"):
                    return
                await self._wait(semaphore, standing)
            except LockdError:
                await asyncio.sleep(AGAIN_SECS)

    async def _wait(self, semaphore: Semaphore, standing: Standing) -> None:
        if not standing.granted and await semaphore.store.keep(standing.ticket):
            await semaphore.store.wait_turn(standing.group, standing.ticket, 2.0)

    async def _come_back(self, semaphore: Semaphore, name: str) -> None:
        own = (await semaphore.look()).of(name)
        while own is not None:
            await semaphore.give_back(own)
            own = (await semaphore.look()).of(name)

    def _note_place(self, name: str, number: int) -> None:
        if self._numbers.setdefault(name, number) != number:
            self.problems.append(f"{name} lost its place {self._numbers[name]} in the queue for {number}")
            self._numbers[name] = number

    def _went(self, name: str) -> None:
        self._down.add(name)
        self.most = max(self.most, len(self._down))
        if len(self._down) > self._limit:
            self.problems.append(f"{sorted(self._down)} are down at once")
        mine = self._numbers.pop(name)
        ahead = sorted(other for other, number in self._numbers.items() if number < mine)
        if len(ahead) >= self._limit:
            self.problems.append(f"{name} went before {ahead}")


async def break_members(cluster: Cluster, rounds: Sequence[Round], dice: random.Random, times: int) -> None:
    """Kill, pause and start members again; mostly one at a time, at times the majority.

    The first time it is the majority, and each time the members stay broken until a host of each round has met it: on a
    fast machine as on a slow one, a round is never over before anything failed.
    """
    for time in range(times):
        failures = [made.failures for made in rounds]
        for member in dice.sample(cluster.members, 2 if time == 0 else dice.choice((1, 1, 1, 2))):
            _break(member, dice)
        while any(made.failures == before and not made.is_over for made, before in zip(rounds, failures, strict=True)):
            await asyncio.sleep(AGAIN_SECS)
        await asyncio.sleep(dice.uniform(*BROKEN_SECS))
        for member in cluster.members:
            if member.paused:
                member.resume()
            elif not member.runs:
                cluster.start(member)
        await asyncio.sleep(dice.uniform(*BROKEN_SECS))


def _break(member: Member, dice: random.Random) -> None:
    if dice.random() < 0.5:
        member.kill()
    else:
        member.pause()


async def _until(act: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await act()
        except LockdError:
            await asyncio.sleep(AGAIN_SECS)
