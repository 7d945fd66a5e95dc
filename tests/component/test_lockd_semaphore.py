"""The semaphore's steps over both real stores: etcd, and the file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from lockd import etcd_codec as codec
from lockd.errors import ErrorCode, LockdError, RefusedError, RemoteError
from lockd.etcd import EtcdClient, EtcdOptions, open_etcd
from lockd.semaphore import Identity, Semaphore
from lockd.store import NOBODY, EtcdStore, Store
from lockd.store_local import LocalStore
from lockd.tickets import Group, Phase
from tests.support.etcd import Etcd
from tests.support.lossy import LossyTransport
from tests.support.moving_clock import MovingClock
from tests.support.quick_http import patient_client

CLOCK = MovingClock()


@pytest.fixture(params=["etcd", "local"])
async def store(request: pytest.FixtureRequest, etcd: Etcd, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    if request.param == "local":
        made = LocalStore(tmp_path / "tickets.json")
    else:
        made = EtcdStore(open_etcd(EtcdOptions((etcd.endpoint,))), prefix="/t", group=tmp_path.name, lease_ttl_secs=60)
    yield made
    await made.close()


def host(store: Store, name: str, boot: str = "boot-1") -> Semaphore:
    return Semaphore(store, CLOCK, Identity(name, boot, f"{name}.example"))


async def test_slot_goes_round_in_the_order_of_arrival(store: Store) -> None:
    """Who came first holds first; a release lets the next one in, and so on."""
    hosts = [host(store, f"m{number}") for number in range(4)]
    for one in hosts:
        await one.acquire("1", "2")
    order = []
    for _ in hosts:
        group = await store.read()
        (holder,) = group.holders
        order.append(holder.machine_id)
        await store.remove(holder)
        for one in hosts[len(order) :]:
            await one.acquire("1", "2")
    assert order == ["m0", "m1", "m2", "m3"]


async def test_acquire_again_finds_what_is_held(store: Store) -> None:
    """Asking twice, as after a lost answer or a restart, takes one slot and says so both times."""
    first = await host(store, "m1").acquire("1", "2")
    again = await host(store, "m1").acquire("1", "2")
    assert first.granted
    assert again.granted
    assert len((await store.read()).holders) == 1


async def test_parallel_takers_fill_every_free_slot(store: Store) -> None:
    """Twenty hosts at once with room for fifty: every one of them gets its slot (none fails on a race)."""
    await host(store, "admin").set_max(50)
    standings = await asyncio.gather(*(host(store, f"m{number}").acquire("1", "2") for number in range(20)))
    assert all(standing.granted for standing in standings)
    assert len((await store.read()).holders) == 20


async def test_parallel_takers_never_exceed_the_limit(store: Store) -> None:
    """Twenty hosts at once with room for three: three hold."""
    await host(store, "admin").set_max(3)
    await asyncio.gather(*(host(store, f"m{number}").acquire("1", "2") for number in range(20)))
    group = await store.read()
    assert (len(group.holders), len(group.waiting)) == (3, 17)


async def test_commit_fails_on_anything_that_changed(store: Store) -> None:
    """The last look before the reboot refuses when the group was paused or resized, or the ticket was taken away."""
    one, admin = host(store, "m1"), host(store, "admin")
    standing = await one.acquire("1", "2")
    await admin.pause(by="admin", reason="stop")
    assert not await one.commit(standing, "1", "2")
    await admin.resume()
    standing = await one.acquire("1", "2")
    await admin.set_max(2)
    assert not await one.commit(standing, "1", "2")
    standing = await one.acquire("1", "2")
    await admin.unlock_by_hand("m1", force=True)
    assert not await one.commit(standing, "1", "2")
    assert await one.commit(await one.acquire("1", "2"), "1", "2")


async def test_one_wrong_look_isnt_enough_to_go_down_on(store: Store) -> None:
    """When a look hid who is down, the answer to the commit shows it: the host stays up, and its ticket says so."""
    one, other, admin = host(store, "m1"), host(store, "m2"), host(store, "admin")
    await admin.set_max(2)
    assert await other.commit(await other.acquire("1", "2"), "1", "2")
    assert (await one.acquire("1", "2")).granted
    await admin.set_max(1)
    truth = await one.acquire("1", "2")
    lie = replace(truth, group=replace(truth.group, tickets=(truth.ticket,)))
    assert (truth.granted, lie.granted) == (False, True)
    assert not await one.commit(lie, "1", "2")
    phases = {ticket.machine_id: ticket.claim.phase for ticket in (await store.read()).tickets}
    assert phases == {"m1": Phase.HELD, "m2": Phase.REBOOTING}


async def test_pause_holds_everybody_and_keeps_its_first_reason(store: Store) -> None:
    """A paused group grants nothing, and a second pause doesn't hide who paused it first."""
    admin = host(store, "admin")
    await admin.pause(by="first", reason="why")
    await admin.pause(by="second", reason="other")
    pause = (await store.read()).settings.pause
    assert pause is not None
    assert pause.by == "first"
    assert not (await host(store, "m1").acquire("1", "2")).granted
    with pytest.raises(RefusedError) as caught:
        await admin.lock_by_hand("m2")
    assert caught.value.code is ErrorCode.GROUP_PAUSED


async def test_slot_of_a_reboot_isnt_taken_for_one_by_hand(store: Store) -> None:
    """Who locks a host that is about to reboot, or down, is told so: its own lockd will give that slot back."""
    one, admin = host(store, "m1"), host(store, "admin")
    standing = await one.acquire("1", "2")
    assert standing.granted
    with pytest.raises(RefusedError, match="m1 is held since") as caught:
        await admin.lock_by_hand("m1")
    assert caught.value.code is ErrorCode.FORCE_NEEDED
    assert await one.commit(standing, "1", "2")
    with pytest.raises(RefusedError, match="m1 is rebooting since"):
        await admin.lock_by_hand("m1")


async def test_lock_by_hand_leaves_nothing_behind_when_full(store: Store) -> None:
    """A refused lock isn't in the queue afterwards, and a repeated one is no error."""
    admin = host(store, "admin")
    await admin.lock_by_hand("m1")
    await admin.lock_by_hand("m1")
    with pytest.raises(RefusedError) as caught:
        await admin.lock_by_hand("m2")
    assert caught.value.code is ErrorCode.SEMAPHORE_FULL
    group = await store.read()
    assert [ticket.machine_id for ticket in group.tickets] == ["m1"]
    assert group.tickets[0].claim.phase is Phase.MANUAL


async def test_unlock_of_a_host_that_may_be_down_needs_force(store: Store) -> None:
    """A slot whose host may be down is only taken away by somebody who says so."""
    one, admin = host(store, "m1"), host(store, "admin")
    assert await one.commit(await one.acquire("1", "2"), "1", "2")
    with pytest.raises(RefusedError) as caught:
        await admin.unlock_by_hand("m1", force=False)
    assert caught.value.code is ErrorCode.FORCE_NEEDED
    await admin.unlock_by_hand("m1", force=True)
    with pytest.raises(RefusedError) as caught:
        await admin.unlock_by_hand("m1", force=True)
    assert caught.value.code is ErrorCode.TICKET_MISSING


async def test_held_ticket_has_no_lease_and_a_waiting_one_has(store: Store) -> None:
    """A held slot never expires by itself; a waiter that dies leaves the queue."""
    held = (await host(store, "m1").acquire("1", "2")).ticket
    waiting = (await host(store, "m2").acquire("1", "2")).ticket
    assert held.lease == 0
    assert waiting.lease != 0
    assert await store.keep(waiting)


async def test_undone_commit_says_that_the_host_is_up(store: Store) -> None:
    """A reboot that was refused leaves a held slot, not one that looks as if the host were down."""
    one = host(store, "m1")
    assert await one.commit(await one.acquire("1", "2"), "1", "2")
    await one.undo_commit()
    assert (await store.read()).tickets[0].claim.phase is Phase.HELD


async def test_overdue_budget_is_heeded_between_slot_and_reboot(store: Store) -> None:
    """A host that has a slot and is up doesn't go down once too many of the others are overdue."""
    clock = MovingClock()
    admin, one, two = (Semaphore(store, clock, Identity(name, "boot-1")) for name in ("admin", "m1", "m2"))
    await admin.set_max(2)
    await admin.set_policy(overdue_budget=1)
    assert await one.commit(await one.acquire("1", "2"), "1", "2")
    assert (await two.acquire("1", "2")).granted
    clock.advance(1801)
    standing = await two.acquire("1", "2")
    assert (standing.granted, await two.commit(standing, "1", "2")) == (False, False)
    assert "1 overdue (m1)" in standing.held_back
    await admin.unlock_by_hand("m1", force=True, by="me", reason="it is up")
    assert (await two.acquire("1", "2")).granted
    (record,) = (await store.read()).unlocks
    assert (record.machine_id, record.by, record.reason, record.phase) == ("m1", "me", "it is up", "rebooting")


# ---- etcd only: many waiters, intervals, lost answers, foreign documents


async def test_look_costs_the_same_however_many_wait(etcd: Etcd, tmp_path: Path) -> None:
    """A waiter far behind asks once, and gets as many bytes with 240 ahead of it as with 60."""
    transport = WeighingTransport()
    client = patient_client(etcd.endpoint, transport)
    store = EtcdStore(client, prefix="/t", group=tmp_path.name, lease_ttl_secs=600)
    costs: list[tuple[int, int]] = []
    for count in (60, 240):
        for start in range(len(costs) * 60, count, 30):
            await asyncio.gather(*(host(store, f"m{start + one:04}").acquire("1", "2") for one in range(30)))
        last = host(store, f"last-{count:04}")
        await last.acquire("1", "2")
        requests, weight = client.requests, transport.weight
        standing = await last.acquire("1", "2")
        costs.append((client.requests - requests, transport.weight - weight))
        assert (standing.granted, standing.group.sees(standing.ticket)) == (False, False)
        assert standing.group.queued == count - 1 + len(costs)
    await store.close()
    assert costs[0][0] == costs[1][0] == 1
    assert costs[1][1] < costs[0][1] * 1.05 < 10_000


async def test_queue_is_sorted_only_for_who_may_be_near_its_front(etcd: Etcd, tmp_path: Path) -> None:
    """Far back, a look reaches the next one ahead until that one leaves; a holder's look reaches nobody who waits."""
    async with lossy_store(etcd, tmp_path.name, lambda _path, _count: False) as store:
        hosts = [host(store, f"m{number:02}") for number in range(40)]
        for one in hosts:
            await one.acquire("1", "2")
        far = (await hosts[39].acquire("1", "2")).group
        assert (names(far), far.horizon, far.queued) == (["m00", "m38", "m39"], NOBODY, 39)
        assert names(await hosts[0].look()) == ["m00"]
        left = (await hosts[38].look()).of("m38")
        assert left is not None
        assert await hosts[38].give_back(left)
        near = (await hosts[39].acquire("1", "2")).group
        assert (names(near)[:3], names(near)[-2:], near.queued) == (["m00", "m01", "m02"], ["m37", "m39"], 38)
        own = near.of("m39")
        assert own is not None
        assert await hosts[39].give_back(own)  # as when its lease ends
        assert (await hosts[39].look()).of("m39") is None
        again = (await hosts[39].acquire("1", "2")).ticket
        assert again.create_revision > own.create_revision


def names(group: Group) -> list[str]:
    return [ticket.machine_id for ticket in group.tickets]


async def test_waiter_wakes_when_the_next_one_ahead_moves_up(etcd: Etcd, tmp_path: Path) -> None:
    """Each waiter is woken by the one it watches, the first by a release, and each gets its slot in its turn."""
    async with lossy_store(etcd, tmp_path.name, lambda _path, _count: False) as store:
        hosts = [host(store, f"m{number}") for number in range(4)]
        order: list[str] = []

        async def go(one: Semaphore) -> None:
            standing = await one.acquire("1", "2")
            while not standing.granted:
                await store.wait_turn(standing.group, standing.ticket, 600)
                standing = await one.acquire("1", "2")
            order.append(one.identity.machine_id)
            assert await one.give_back(standing.ticket)

        standings = [await one.acquire("1", "2") for one in hosts]
        waiting = [asyncio.create_task(go(one)) for one in reversed(hosts[1:])]
        await one_look(hosts[0])
        assert await hosts[0].give_back(standings[0].ticket)
        async with asyncio.timeout(60):
            await asyncio.gather(*waiting)
        assert order == ["m1", "m2", "m3"]


async def one_look(semaphore: Semaphore) -> None:
    """Let the tasks that were just made begin: a request takes as long as theirs."""
    await semaphore.look()


async def test_minimum_interval_is_between_any_two_grants(etcd: Etcd, tmp_path: Path) -> None:
    """Of many who may take a slot at once one does; the next one when the interval is over, by etcd's own clock."""
    async with lossy_store(etcd, tmp_path.name, lambda _path, _count: False) as store:
        await host(store, "admin").set_max(10)
        await host(store, "admin").set_policy(min_interval_secs=2)
        hosts = [host(store, f"m{number}") for number in range(5)]
        standings = await asyncio.gather(*(one.acquire("1", "2") for one in hosts))
        assert sum(standing.granted for standing in standings) == 1
        (first,) = (await store.read()).waiting[:1]
        standing = await host(store, first.machine_id).acquire("1", "2")
        assert "less than 2 s ago" in standing.held_back
        async with asyncio.timeout(60):
            while not standing.granted:
                await store.wait_turn(standing.group, standing.ticket, 600)
                standing = await host(store, first.machine_id).acquire("1", "2")
        assert standing.ticket.machine_id == first.machine_id


async def test_ticket_in_the_wrong_place_holds_a_slot(etcd: Etcd, tmp_path: Path) -> None:
    """A waiting ticket among the slots counts as a slot, and a key in the queue without a lease isn't passed over."""
    async with lossy_store(etcd, tmp_path.name, lambda _path, _count: False) as store:
        one = host(store, "m1")
        client = open_etcd(EtcdOptions((etcd.endpoint,)))
        for place in ("slots", "queue"):
            key = f"/t/groups/{tmp_path.name}/{place}/stray"
            await client.txn([], [codec.put(key, b'{"phase": "waiting"}')])
            assert not (await one.acquire("1", "2")).granted
            (stray,) = (await store.read()).holders
            assert stray.claim.phase is Phase.DAMAGED
            await one.unlock_by_hand("stray", force=True)
            standing = await one.acquire("1", "2")
            assert standing.granted
            assert await one.give_back(standing.ticket)
        await client.close()


class WeighingTransport(httpx.AsyncHTTPTransport):
    """Sends every request for real; `weight` is the bytes of all answers."""

    def __init__(self) -> None:
        super().__init__(verify=False)
        self.weight = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        body = await answer.aread()
        await answer.aclose()
        self.weight += len(body)
        return httpx.Response(answer.status_code, stream=httpx.ByteStream(body), request=request)


@asynccontextmanager
async def lossy_store(etcd: Etcd, group: str, lose: Callable[[str, int], bool]) -> AsyncIterator[Store]:
    http = httpx.AsyncClient(transport=LossyTransport(lose), trust_env=False)
    store = EtcdStore(EtcdClient(EtcdOptions((etcd.endpoint,)), http), prefix="/t", group=group, lease_ttl_secs=60)
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("lost", range(1, 7))
async def test_lost_answer_at_any_step_heals(etcd: Etcd, tmp_path: Path, lost: int) -> None:
    """Whichever answer gets lost, repeating the step ends with one slot, held by this host, and one ticket."""
    async with lossy_store(etcd, tmp_path.name, lambda _path, count: count == lost) as store:
        one = host(store, "m1")
        for _attempt in range(2):
            with contextlib.suppress(RemoteError):
                await one.commit(await one.acquire("1", "2"), "1", "2")
        standing = await one.acquire("1", "2")
        assert standing.granted
        assert standing.ticket.claim.phase is Phase.REBOOTING
        assert [ticket.machine_id for ticket in (await store.read()).tickets] == ["m1"]


async def test_lost_answer_to_a_release_frees_the_slot_once(etcd: Etcd, tmp_path: Path) -> None:
    """A release whose answer got lost is repeated without taking away what the next host got meanwhile."""
    async with lossy_store(etcd, tmp_path.name, lambda _path, _count: False) as store:
        held = (await host(store, "m1").acquire("1", "2")).ticket
        assert await store.remove(held)
        assert (await host(store, "m2").acquire("1", "2")).granted
        assert not await store.remove(held)
        assert [ticket.machine_id for ticket in (await store.read()).holders] == ["m2"]


async def test_garbage_among_the_tickets_holds_a_slot(etcd: Etcd, tmp_path: Path) -> None:
    """A key that isn't a ticket blocks rather than being overlooked, and force removes it."""
    async with lossy_store(etcd, tmp_path.name, lambda _path, _count: False) as store:
        one = host(store, "m1")
        await one.lock_by_hand("junk")
        ticket = (await store.read()).tickets[0]
        client = open_etcd(EtcdOptions((etcd.endpoint,)))
        key = f"/t/groups/{tmp_path.name}/slots/junk"
        await client.txn([codec.compare(key, "MOD", ticket.mod_revision)], [codec.put(key, b"\x00garbage")])
        await client.close()
        standing = await one.acquire("1", "2")
        assert not standing.granted
        assert standing.group.holders[0].claim.phase is Phase.DAMAGED
        await one.unlock_by_hand("junk", force=True)
        assert (await one.acquire("1", "2")).granted


async def test_damaged_settings_grant_nothing(etcd: Etcd, tmp_path: Path) -> None:
    """Settings that somebody spoiled stop the group loudly."""
    client = open_etcd(EtcdOptions((etcd.endpoint,)))
    await client.txn([], [codec.put(f"/t/groups/{tmp_path.name}/settings", b'{"max": -1}')])
    store = EtcdStore(client, prefix="/t", group=tmp_path.name, lease_ttl_secs=60)
    with pytest.raises(LockdError) as caught:
        await host(store, "m1").acquire("1", "2")
    assert caught.value.code is ErrorCode.SETTINGS_DAMAGED
    await store.close()
