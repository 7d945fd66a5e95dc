"""The register of machines, percentages of it, and what lockctl shows and records, on a real etcd."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from lockd import etcd_codec as codec
from lockd import registry as registry_room
from lockd.errors import ErrorCode, RefusedError
from lockd.etcd import EtcdClient, EtcdOptions, open_etcd
from lockd.machines import Machine
from lockd.registry import SAY_SECS, TURN_SECS, WRITE_SECS, Registrar, Registry
from lockd.semaphore import Identity, Semaphore
from lockd.store import EtcdStore
from lockd.tickets import Phase
from tests.support.etcd import Etcd
from tests.support.lockd_host import LockdHost
from tests.support.moving_clock import MovingClock
from tests.support.processes import run_tool, wait_for

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
async def client(etcd: Etcd) -> AsyncIterator[EtcdClient]:
    made = open_etcd(EtcdOptions((etcd.endpoint,)))
    yield made
    await made.close()


@pytest.fixture
def group(tmp_path: Path) -> str:
    return tmp_path.name


@pytest.fixture
def lockctl(etcd: Etcd, group: str) -> Run:
    env = {"LOCKD_CONFIG": "/dev/null", "LOCKD_ENDPOINTS": etcd.endpoint, "LOCKD_GROUP": group, "SUDO_USER": "alice"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_tool("lockctl", *arguments, env=env | {"LOCKD_MACHINE_ID": "me"})

    return run


def registry(client: EtcdClient, group: str) -> Registry:
    return Registry(client, prefix="/lockd", group=group, known_days=30)


def host(client: EtcdClient, group: str, name: str) -> Semaphore:
    store = EtcdStore(client, prefix="/lockd", group=group, lease_ttl_secs=60)
    return Semaphore(store, MovingClock(), Identity(name, "boot-1", f"{name}.example"))


async def register(client: EtcdClient, group: str, *names: str) -> None:
    for name in names:
        describe = partial(Machine, name, f"{name}.example", "1.0", "a", "idle", "boot-1")
        await Registrar(registry(client, group), MovingClock(), describe).turn()


async def test_machine_tells_what_changed_and_little_else(client: EtcdClient, group: str) -> None:
    """A change is written once; without one a machine says from time to time that it is up, in two small requests."""
    clock, told = MovingClock(), Machine("m1", "m1.example", "1.0", "a", "idle", "boot-1")
    view = [told]
    registrar = Registrar(registry(client, group), clock, lambda: view[0])

    async def cost(secs: float) -> int:
        clock.advance(secs)
        before = client.requests
        await registrar.turn()
        return client.requests - before

    assert await cost(0) == 3  # two leases and the entry
    assert await cost(60) == 0
    view[0] = replace(told, state="waiting")
    assert await cost(60) == 1
    assert await cost(SAY_SECS) == 2
    assert await cost(WRITE_SECS) == 3  # and a new `seen`
    (known,) = await registry(client, group).read()
    assert (known.machine.state, known.up) == ("waiting", True)


async def test_lost_lease_is_made_again(client: EtcdClient, group: str) -> None:
    """A machine that etcd has forgotten registers anew by itself."""
    clock, machine = MovingClock(), Machine("m1")
    registrar = Registrar(registry(client, group), clock, lambda: machine)
    await registrar.turn()
    await client._post("/lease/revoke", {"ID": str(registrar._leases.up)})  # type: ignore[union-attr]
    assert [known.up for known in await registry(client, group).read()] == [False]
    clock.advance(SAY_SECS)
    await registrar.turn()
    assert [known.up for known in await registry(client, group).read()] == [True]


async def test_refused_write_makes_no_more_leases(
    client: EtcdClient, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that may not write the entry is warned of once, and doesn't fill etcd with leases of a month."""
    warned: list[str] = []
    monkeypatch.setattr(registry_room.logger, "warning", lambda event, **_: warned.append(event))
    clock, real = MovingClock(), client.txn
    describing = Registrar(registry(client, group), clock, partial(Machine, "m1"))

    async def refuse(*_: object) -> None:
        raise RefusedError(ErrorCode.ETCD_AUTH, "permission denied", hint="grant it")

    monkeypatch.setattr(client, "txn", refuse)
    before = await leases(client)
    await turns(describing, clock, 20)
    assert (await leases(client) - before, warned) == (2, ["register-failed"])
    monkeypatch.setattr(client, "txn", real)
    await turns(describing, clock, 2)
    (known,) = await registry(client, group).read()
    assert (known.machine.machine_id, await leases(client) - before) == ("m1", 2)
    monkeypatch.setattr(client, "txn", refuse)
    await client._post("/lease/revoke", {"ID": str(describing._leases.known)})  # type: ignore[union-attr]
    await turns(describing, clock, 80)
    assert warned == ["register-failed"] * 2  # it had gone well in between
    monkeypatch.setattr(client, "txn", real)
    await turns(describing, clock, 2)
    assert [known.up for known in await registry(client, group).read()] == [True]


async def turns(registrar: Registrar, clock: MovingClock, count: int) -> None:
    """Let it run for so many turns."""
    running = asyncio.create_task(registrar.run())
    end = clock.now() + timedelta(seconds=count * TURN_SECS)
    while clock.now() < end:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def leases(client: EtcdClient) -> int:
    return len(json.loads(await client._post("/lease/leases", {})).get("leases", []))


async def test_damaged_entry_is_shown_as_such(client: EtcdClient, group: str) -> None:
    """An entry that can't be read is one machine with nothing known about it."""
    await client.txn([], [codec.put(f"/lockd/groups/{group}/machines/junk", b"\x00")])
    (known,) = await registry(client, group).read()
    assert (known.machine.machine_id, known.machine.state, known.up) == ("junk", "damaged", False)


async def test_percentage_is_a_number_that_no_machine_changes(client: EtcdClient, group: str, lockctl: Run) -> None:
    """10 % of 20 machines known is 2, also when machines go down or are added, until somebody counts again."""
    names = [f"m{number:02}" for number in range(20)]
    await register(client, group, *names)
    assert lockctl("set-max", "10%").stdout == f"max of group {group}: 2, 10% of 20 machines known (was 1)\n"
    for name in names[:15]:  # they go down: nothing says any more that they are up
        await client.txn([], [codec.delete(f"/lockd/groups/{group}/up/{name}")])
    await register(client, group, *(f"n{number:02}" for number in range(20)))
    settings = (await host(client, group, "m01").look()).settings
    assert (settings.max, settings.percent, settings.known) == (2, 10, 20)
    assert "2 (10% of 20 machines known)" in lockctl("status").stdout
    document = json.loads(lockctl("set-max", "10%", "--json").stdout)
    assert (document["max"], document["known"]) == (4, 40)  # also those that are down
    assert json.loads(lockctl("set-max", "7", "--json").stdout)["percent"] is None


def test_percentage_of_nothing_is_refused(lockctl: Run) -> None:
    """Before any machine registered, a percentage has no meaning, and nothing is changed."""
    done = lockctl("set-max", "10%")
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is nothing to count" in done.stderr


async def test_machines_shows_the_fleet(client: EtcdClient, group: str, lockctl: Run) -> None:
    """Who holds, who waits at which rank, who rolled back, and every other machine that is known, are in one list."""
    await register(client, group, "m1", "m2", "m3", "m4")
    first, second = host(client, group, "m1"), host(client, group, "m2")
    await first.acquire("1.0", "2.0")
    await second.acquire("1.0", "2.0")
    await host(client, group, "unregistered").acquire("1.0", "2.0")
    own = (await first.look()).of("m1")
    assert own is not None
    await first.record_rollback(own, "version 2.0 did not boot well")
    listed = json.loads(lockctl("machines", "--json").stdout)
    assert [(one["id"], one["phase"], one["rank"], one["up"]) for one in listed] == [
        ("m1", "rolled-back", 0, True),
        ("m2", "waiting", 1, True),
        ("unregistered", "waiting", 2, None),
        ("m3", None, None, True),
        ("m4", None, None, True),
    ]
    assert (listed[0]["version"], listed[0]["slot"], listed[3]["host"]) == ("1.0", "a", "m3.example")
    lines = lockctl("machines").stdout.splitlines()
    assert "version 2.0 did not boot well" in lines[1]
    assert len(lines) == 6


def test_daemon_registers_its_machine(etcd: Etcd, tmp_path: Path) -> None:
    """A running lockd is in the fleet's list by itself, also as long as it neither holds nor waits."""
    table = f'[etcd]\nendpoints = ["{etcd.endpoint}"]\nprefix = "/daemon"'
    with LockdHost(tmp_path / "a", "host-a", f'strategy = "etcd"\n{table}') as running:
        running.start()

        def listed() -> list[dict[str, object]]:
            return list(json.loads(running.lockctl("machines", "--json").stdout))

        (machine,) = wait_for(listed, "an entry of host-a")
        assert (machine["id"], machine["up"], machine["phase"]) == ("host-a", True, None)
        assert machine["host"] == socket.gethostname()


async def test_forced_unlock_is_on_record(client: EtcdClient, group: str, lockctl: Run) -> None:
    """Who took a slot away by force, when and why, is kept in etcd and shown to everybody who asks for the status."""
    one = host(client, group, "m1")
    assert await one.commit(await one.acquire("1", "2"), "1", "2")
    assert lockctl("unlock", "m1").returncode == 3
    assert lockctl("unlock", "m1", "--force", "--reason", "its disk is gone").returncode == 0
    (record,) = json.loads(lockctl("status", "--json").stdout)["unlocks"]
    assert (record["id"], record["phase"], record["reason"]) == ("m1", "rebooting", "its disk is gone")
    assert record["by"].startswith("alice@")
    assert "its disk is gone" in lockctl("status").stdout


async def test_records_of_forced_unlocks_are_bounded(
    client: EtcdClient, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest record gives way to the newest, so that they never fill the store."""
    monkeypatch.setattr("lockd.store.UNLOCKS_LIMIT", 3)
    operator = host(client, group, "operator")
    for number in range(5):
        await operator.lock_by_hand("m1")
        await operator.unlock_by_hand("m1", force=True, by="me", reason=f"reason {number}")
        operator._clock.advance(1)  # type: ignore[attr-defined]
    assert [unlock.reason for unlock in (await operator.read()).unlocks] == ["reason 4", "reason 3", "reason 2"]


async def test_policy_is_set_and_shown(client: EtcdClient, group: str, lockctl: Run) -> None:
    """The least time between two grants and what overdue machines mean are set for the group, each by itself."""
    assert lockctl("set-policy", "--min-interval-secs", "600").returncode == 0
    assert lockctl("set-policy", "--overdue", "2").returncode == 0
    document = json.loads(lockctl("status", "--json").stdout)
    assert [document[name] for name in ("min_interval_secs", "overdue_policy", "overdue_budget")] == [600, "budget", 2]
    assert (await host(client, group, "m1").acquire("1", "2")).ticket.claim.phase is Phase.HELD
    refused = lockctl("lock", "m2")
    assert refused.returncode == 3
    assert "m1 was granted a slot less than 600 s ago" in refused.stderr
    assert json.loads(lockctl("set-policy", "--overdue", "hold", "--json").stdout)["overdue_budget"] is None
