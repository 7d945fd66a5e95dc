"""The store in a real etcd where it meets what it didn't write, or what changes under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lockd import etcd_codec as codec
from lockd.etcd import EtcdClient, EtcdOptions, open_etcd
from lockd.semaphore import Identity, Semaphore
from lockd.status import ticket_stand
from lockd.store import FRONT, EtcdStore
from lockd.tickets import GroupSettings, Phase
from tests.support.etcd import Etcd
from tests.support.moving_clock import MovingClock
from tests.support.processes import run_tool

DAY_SECS = 86400
NAMES = ("stray", "foo/bar", "two words", "a" * 65)


@pytest.fixture
async def client(etcd: Etcd) -> AsyncIterator[EtcdClient]:
    made = open_etcd(EtcdOptions((etcd.endpoint,), request_timeout_secs=30))
    yield made
    await made.close()


@pytest.fixture
def store(client: EtcdClient, tmp_path: Path) -> EtcdStore:
    return EtcdStore(client, prefix="/lockd", group=tmp_path.name, lease_ttl_secs=60)


def host(store: EtcdStore, name: str) -> Semaphore:
    return Semaphore(store, MovingClock(), Identity(name, "boot-1"))


async def put(client: EtcdClient, group: str, place: str, value: bytes = b'{"phase": "waiting"}') -> None:
    await client.txn([], [codec.put(f"/lockd/groups/{group}/{place}", value)])


# ---- the interval between two grants


async def test_lowered_interval_counts_from_now_on(store: EtcdStore) -> None:
    """Nobody waits for an interval that is no longer set, and nobody goes before the one that is."""
    admin, one, two = host(store, "admin"), host(store, "m1"), host(store, "m2")
    await admin.set_max(5)
    await admin.set_policy(min_interval_secs=DAY_SECS)
    assert (await one.acquire("1", "2")).granted
    await admin.set_policy(min_interval_secs=2)
    standing = await two.acquire("1", "2")
    assert standing.held_back.startswith("m1 was granted a slot less than 2 s ago")
    async with asyncio.timeout(60):
        while not standing.granted:
            await store.wait_turn(standing.group, standing.ticket, 600)
            standing = await two.acquire("1", "2")


async def test_interval_that_is_switched_off_is_over(store: EtcdStore) -> None:
    """Off is off at once, also for an interval that somebody sets afterwards."""
    admin = host(store, "admin")
    await admin.set_max(5)
    await admin.set_policy(min_interval_secs=DAY_SECS)
    assert (await host(store, "m1").acquire("1", "2")).granted
    await admin.set_policy(min_interval_secs=0)
    assert (await host(store, "m2").acquire("1", "2")).granted
    await admin.set_policy(min_interval_secs=DAY_SECS)
    assert (await host(store, "m3").acquire("1", "2")).granted


async def test_raised_interval_lets_nobody_through_earlier(store: EtcdStore) -> None:
    """The interval that runs isn't cut short by a longer one, nor by another change of the settings."""
    admin = host(store, "admin")
    await admin.set_max(5)
    await admin.set_policy(min_interval_secs=DAY_SECS)
    assert (await host(store, "m1").acquire("1", "2")).granted
    await admin.set_policy(min_interval_secs=2 * DAY_SECS)
    await admin.set_max(6)
    assert (await admin.look()).recent == "m1"


async def test_grant_between_look_and_lowering_isnt_overlooked(store: EtcdStore) -> None:
    """Settings decided on before a grant don't leave that grant's long interval behind: they are decided on anew."""
    admin = host(store, "admin")
    await admin.set_policy(min_interval_secs=DAY_SECS)
    seen = await admin.look()
    assert (await host(store, "m1").acquire("1", "2")).granted
    assert not await store.put_settings(seen, GroupSettings(min_interval_secs=2))
    await admin.set_policy(min_interval_secs=2)
    group = await admin.look()
    assert (group.settings.min_interval_secs, group.recent) == (2, "m1")


# ---- keys that aren't tickets


@pytest.mark.parametrize("name", NAMES)
async def test_waiter_that_would_never_leave_is_named_to_those_behind(
    client: EtcdClient, store: EtcdStore, tmp_path: Path, name: str
) -> None:
    """Of the front of the queue only the names are read: a key without a lease is damaged there too, and told of."""
    await put(client, tmp_path.name, f"queue/{name}")
    for number in range(2):
        await host(store, f"m{number}").acquire("1", "2")
    standing = await host(store, "m1").acquire("1", "2")
    assert not standing.granted
    assert [one.machine_id for one in standing.group.holders] == [name]
    assert f"held by {name} (damaged)" in ticket_stand(standing).reason
    await host(store, "m0").unlock_by_hand(name, force=True, by="me", reason="it never was one")
    assert (await host(store, "m0").acquire("1", "2")).granted


async def test_queue_moves_on_behind_a_key_that_never_leaves(
    client: EtcdClient, store: EtcdStore, tmp_path: Path
) -> None:
    """With a slot more than the damaged key takes, who waits behind it gets a turn, also from far behind."""
    await host(store, "admin").set_max(2)
    hosts = [host(store, f"m{number:02}") for number in range(FRONT + 4)]
    for number, one in enumerate(hosts):
        if number == FRONT + 2:
            await put(client, tmp_path.name, "queue/stray")
        await one.acquire("1", "2")
    for one in hosts:
        await asyncio.gather(*(other.acquire("1", "2") for other in hosts[-2:]))  # they look as they wait
        standing = await one.acquire("1", "2")
        assert standing.granted
        assert await one.give_back(standing.ticket)


@pytest.mark.parametrize("name", NAMES)
async def test_damaged_slot_of_any_name_is_unlocked_by_force(
    etcd: Etcd, client: EtcdClient, store: EtcdStore, tmp_path: Path, name: str
) -> None:
    """What `status` shows as damaged it also says how to remove, and that works whatever the key is called."""
    group = tmp_path.name
    await put(client, group, f"slots/{name}", b"x")
    assert "lockctl unlock ID --force --reason WHY" in lockctl(etcd, group, "status")[1]
    assert lockctl(etcd, group, "unlock", name)[0] in (2, 3)
    code, told, _ = lockctl(etcd, group, "unlock", name, "--force", "--reason", "it is none")
    assert (code, told) == (0, f"{name} (damaged) has no ticket any more.\n")
    found = await store.read()
    assert found.tickets == ()
    assert [(one.machine_id, one.phase, one.reason) for one in found.unlocks] == [(name, "damaged", "it is none")]
    assert "damaged since" not in lockctl(etcd, group, "status")[1]


async def test_force_takes_no_name_that_isnt_there(etcd: Etcd, store: EtcdStore, tmp_path: Path) -> None:
    """A name is no pattern and no default: without its key nothing is removed, least of all this machine's ticket."""
    await host(store, "me").lock_by_hand("me")
    for name in ("", "m", "m*", "../slots/me", "slots/me", "\udcff"):
        assert lockctl(etcd, tmp_path.name, "unlock", name, "--force")[0] == (2 if name == "\udcff" else 3)
    assert [ticket.claim.phase for ticket in (await store.read()).tickets] == [Phase.MANUAL]


def lockctl(etcd: Etcd, group: str, *arguments: str) -> tuple[int, str, str]:
    env = {"LOCKD_CONFIG": "/dev/null", "LOCKD_ENDPOINTS": etcd.endpoint, "LOCKD_GROUP": group}
    done = run_tool("lockctl", *arguments, env=env | {"LOCKD_MACHINE_ID": "me"})
    return done.returncode, done.stdout, done.stderr
