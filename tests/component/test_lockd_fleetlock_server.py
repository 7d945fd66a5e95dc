"""lockd-fleetlock as a process in front of a real etcd, asked as Zincati asks."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from lockd import fleetlock_main, fleetlock_server
from lockd.errors import ErrorCode, LocalError
from lockd.etcd import EtcdOptions, open_etcd
from lockd.fleetlock_config import ServerSettings
from lockd.semaphore import Identity, Semaphore
from lockd.store import EtcdStore
from lockd.tickets import Phase
from tests.support.etcd import Etcd, free_port
from tests.support.fleetlock import Authority, LockManager, Zincati
from tests.support.moving_clock import MovingClock
from tests.support.processes import wait_for

TOKEN = "correct-horse"


@pytest.fixture
def manager(etcd: Etcd, tmp_path: Path) -> Iterator[LockManager]:
    (tmp_path / "tokens").write_text(f"older\n{TOKEN}\n")
    with LockManager(tmp_path, etcd.endpoint, f'token_file = "{tmp_path}/tokens"') as running:
        yield running


@asynccontextmanager
async def lockd(etcd: Etcd, tmp_path: Path, name: str) -> AsyncIterator[Semaphore]:
    """A host that has its tickets in etcd itself, in the same group."""
    client = open_etcd(EtcdOptions((etcd.endpoint,)))
    store = EtcdStore(client, prefix=f"/{tmp_path.name}", group="default", lease_ttl_secs=60)
    try:
        yield Semaphore(store, MovingClock(), Identity(name, "boot-1"))
    finally:
        await store.close()


def zincati(manager: LockManager, name: str) -> Zincati:
    return Zincati(manager.url, name, token=TOKEN)


def test_slot_is_taken_kept_and_given_back(manager: LockManager) -> None:
    """A slot is one host's, however often it asks, until it is steady; both requests may be repeated."""
    first, second = zincati(manager, "a"), zincati(manager, "b")
    assert first.steady_state() == (200, {})
    assert [first.pre_reboot(), first.pre_reboot()] == [(200, {})] * 2
    status, refusal = second.pre_reboot()
    assert (status, refusal["kind"]) == (423, "failed_lock")
    assert "held by a (rebooting)" in refusal["value"]
    assert second.steady_state() == (200, {})  # it gives back what it doesn't hold
    assert second.pre_reboot()[0] == 423
    assert [first.steady_state(), first.steady_state()] == [(200, {})] * 2
    assert second.pre_reboot() == (200, {})


def test_first_to_ask_is_first_in_the_queue(manager: LockManager) -> None:
    """Who asked first gets the slot, even when another one asks at the moment when it is free."""
    hosts = [zincati(manager, name) for name in "abc"]
    assert [host.pre_reboot()[0] for host in hosts] == [200, 423, 423]
    hosts[0].steady_state()
    assert hosts[2].pre_reboot()[0] == 423
    assert hosts[1].pre_reboot()[0] == 200


def test_twenty_at_once_get_the_twenty_slots_that_are_free(etcd: Etcd, manager: LockManager, tmp_path: Path) -> None:
    """Requests at the same moment don't fail for being at the same moment."""

    async def set_max() -> None:
        async with lockd(etcd, tmp_path, "operator") as operator:
            await operator.set_max(50)

    asyncio.run(set_max())
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: zincati(manager, f"m{number}").pre_reboot()[0], range(20)))
    assert answers == [200] * 20


async def test_both_ways_lead_into_one_queue(etcd: Etcd, manager: LockManager, tmp_path: Path) -> None:
    """Hosts with tickets of their own and hosts that ask by FleetLock together never exceed max, and all get a turn."""
    down, most, done, lock = set[str](), [0], set[str](), threading.Lock()

    def went(name: str) -> None:
        with lock:
            down.add(name)
            most[0] = max(most[0], len(down))

    def came(name: str) -> None:
        with lock:
            down.discard(name)
            done.add(name)

    async def by_fleetlock(name: str) -> None:
        host = zincati(manager, name)
        while (await asyncio.to_thread(host.pre_reboot))[0] != 200:
            await asyncio.sleep(0.01)
        went(name)
        await asyncio.sleep(0.03)
        came(name)
        assert (await asyncio.to_thread(host.steady_state))[0] == 200

    async def by_etcd(name: str) -> None:
        async with lockd(etcd, tmp_path, name) as host:
            standing = await host.acquire("1", "2")
            while not await host.commit(standing, "1", "2"):
                await asyncio.sleep(0.01)
                standing = await host.acquire("1", "2")
            went(name)
            await asyncio.sleep(0.03)
            came(name)
            own = (await host.read()).of(name)
            assert own is not None
            assert await host.give_back(own)

    async with lockd(etcd, tmp_path, "operator") as operator:
        await operator.set_max(2)
    names = [f"z{number}" for number in range(8)], [f"e{number}" for number in range(8)]
    async with asyncio.timeout(120):
        await asyncio.gather(*map(by_fleetlock, names[0]), *map(by_etcd, names[1]))
    assert done == {*names[0], *names[1]}
    assert most[0] == 2


async def test_tickets_made_elsewhere_are_never_touched(etcd: Etcd, manager: LockManager, tmp_path: Path) -> None:
    """Nobody releases or uses a slot of a lockd host, or one taken by hand, by naming its id."""
    async with lockd(etcd, tmp_path, "victim") as victim:
        assert await victim.commit(await victim.acquire("1", "2"), "1", "2")
        attacker = zincati(manager, "victim")
        assert await asyncio.to_thread(attacker.steady_state) == (200, {})  # it holds nothing, and so nothing happens
        status, refusal = await asyncio.to_thread(attacker.pre_reboot)
        assert (status, refusal["kind"]) == (423, "failed_lock")
        ticket = (await victim.read()).of("victim")
        assert ticket is not None
        assert (ticket.claim.phase, ticket.claim.boot_id) == (Phase.REBOOTING, "boot-1")


async def test_paused_group_grants_nothing_and_says_who_paused(
    etcd: Etcd, manager: LockManager, tmp_path: Path
) -> None:
    """A pause of the group holds for hosts that ask by FleetLock too, even for one that was told yes before."""
    host = zincati(manager, "a")
    assert (await asyncio.to_thread(host.pre_reboot))[0] == 200
    async with lockd(etcd, tmp_path, "operator") as operator:
        await operator.pause(by="ops@example", reason="network works")
        status, refusal = await asyncio.to_thread(host.pre_reboot)
        assert (status, refusal["kind"]) == (423, "failed_lock")
        assert "ops@example" in refusal["value"]
        await operator.resume()
    assert (await asyncio.to_thread(host.pre_reboot))[0] == 200


def test_killed_server_forgets_nothing(manager: LockManager) -> None:
    """The server keeps nothing itself: killed and started again it knows who holds and who waits at which place."""
    hosts = [zincati(manager, name) for name in "abc"]
    assert [host.pre_reboot()[0] for host in hosts] == [200, 423, 423]
    manager.kill()
    manager.start()
    hosts = [zincati(manager, name) for name in "abc"]
    assert hosts[0].pre_reboot()[0] == 200
    hosts[0].steady_state()
    assert [hosts[2].pre_reboot()[0], hosts[1].pre_reboot()[0]] == [423, 200]


def test_silent_etcd_is_no_yes(tmp_path: Path) -> None:
    """While etcd doesn't answer, nobody is let down, and the reason is told; afterwards it goes on by itself."""
    with (
        Etcd(tmp_path / "etcd") as paused,
        LockManager(tmp_path / "m", paused.endpoint, "insecure = true", etcd_secs=1) as manager,
    ):
        host = Zincati(manager.url, "a")
        paused.pause()
        assert [host.pre_reboot()[0], host.steady_state()[0]] == [503, 503]
        assert host.pre_reboot()[1]["kind"] == "store_unavailable"
        paused.resume()
        assert wait_for(lambda: host.pre_reboot()[0] == 200, "yes after etcd came back")


def test_service_manager_hears_of_start_life_and_end(tmp_path: Path) -> None:
    """The service manager is told when the server answers, again and again that its loop turns, and that it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(60)
        manager = LockManager(tmp_path / "m", f"http://127.0.0.1:{free_port()}", "insecure = true")
        manager.env |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "150000"}
        with manager:
            assert [heard.recv(100) for _ in range(4)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        messages = iter(lambda: heard.recv(100), b"STOPPING=1")
        assert set(messages) <= {b"WATCHDOG=1"}


# ---- connections and addresses


SILENT = {
    "nothing": b"",
    "half a head": b"POST /v1/pre-reboot HTTP/1.1\r\nHost: x\r\nX-A: ",
    "half a second head": b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\nPOST /v1/pre-reb",
}


@pytest.mark.parametrize("name", SILENT)
async def test_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Who connects and asks nothing, or never to the end, doesn't keep the connection from others."""
    monkeypatch.setattr(fleetlock_main, "IDLE_SECS", 1)
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(SILENT[name])
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
    assert (b"200 OK" in answer) == (name == "half a second head")


async def test_slow_answer_isnt_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for the head of a request: while its answer is made, nobody hangs up."""

    async def slow(*_: object) -> PlainTextResponse:
        await asyncio.sleep(2.5)
        return PlainTextResponse("late")

    monkeypatch.setattr(fleetlock_main, "IDLE_SECS", 1)
    monkeypatch.setattr(fleetlock_server.Service, "healthy", slow)
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.read()).endswith(b"late")
        writer.close()


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """The server in this process, where its deadlines can be set; etcd is nowhere."""
    client, clock = open_etcd(EtcdOptions((f"http://127.0.0.1:{free_port()}",))), MovingClock()
    server = fleetlock_main._make_server(ServerSettings(insecure=True), client, clock)
    sock = fleetlock_main._listen("127.0.0.1:0")
    running = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await running
        await client.close()


@pytest.mark.parametrize("address", ["é..:1", "xn--a.:1", "a\0b:1"])
def test_address_that_cant_be_listened_on_is_told(address: str) -> None:
    """Whatever `listen` says, the answer is a sentence with the address in it."""
    with pytest.raises(LocalError, match="can't listen on") as caught:
        fleetlock_main._listen(address)
    assert caught.value.code is ErrorCode.STATE


# ---- requests that are none

Change = Callable[[Zincati], tuple[int, dict[str, object]]]
REFUSED: dict[str, tuple[Change, int, str]] = {
    "no header": (lambda host: host.post("v1/pre-reboot", headers={"fleet-lock-protocol": "1"}), 400, "missing_header"),
    "no JSON": (lambda host: host.post("v1/pre-reboot", b"{"), 400, "invalid_body"),
    "no id": (lambda host: host.post("v1/steady-state", b'{"client_params":{}}'), 400, "invalid_client_id"),
    "long": (lambda host: host.post("v1/pre-reboot", b" " * 5000), 413, "invalid_body"),
    "GET": (lambda host: host.post("v1/pre-reboot", method="GET"), 405, "method_not_allowed"),
    "path": (lambda host: host.post("v2/pre-reboot"), 404, "not_found"),
    "path up": (lambda host: host.post("v1/../v1/pre-reboot"), 404, "not_found"),
}


@pytest.fixture(scope="module")
def shared(etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LockManager]:
    folder = tmp_path_factory.mktemp("shared")
    (folder / "tokens").write_text(TOKEN)
    with LockManager(folder, etcd.endpoint, f'token_file = "{folder}/tokens"') as running:
        yield running


@pytest.mark.parametrize("name", REFUSED)
def test_request_that_is_none_is_refused(shared: LockManager, name: str) -> None:
    """What the protocol doesn't know gets a 4xx with a word for it."""
    ask, status, kind = REFUSED[name]
    found = ask(zincati(shared, "a"))
    assert (found[0], found[1]["kind"]) == (status, kind)


def test_unknown_group_makes_no_queue(shared: LockManager) -> None:
    """Only the groups of the settings are served, so that a client can't fill etcd with groups."""
    status, refusal = Zincati(shared.url, "a", group="other", token=TOKEN).pre_reboot()
    assert (status, refusal["kind"]) == (400, "unknown_group")


def test_token_is_asked_for(shared: LockManager) -> None:
    """Without a valid token nothing is granted; it may come as a bearer's or as a password, as Zincati can send it."""
    for wrong in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Token {TOKEN}"},
        {"Authorization": "Basic !"},
    ):
        assert Zincati(shared.url, "t").post("v1/pre-reboot", headers=wrong)[0] == 401
    empty = base64.b64encode(b"zincati:").decode()
    assert Zincati(shared.url, "t").post("v1/pre-reboot", headers={"Authorization": f"Basic {empty}"})[0] == 401
    assert Zincati(shared.url, "t").post("v1/pre-reboot", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
    assert zincati(shared, "t").steady_state()[0] == 200


def test_mutual_tls(etcd: Etcd, tmp_path: Path) -> None:
    """With client_ca_file set, a host without a certificate of that authority gets nowhere; with one it does."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    cert, key = ours.issue("server")
    more = f'cert_file = "{cert}"\nkey_file = "{key}"\nclient_ca_file = "{ours.ca_file}"'
    with LockManager(tmp_path / "m", etcd.endpoint, more) as manager:
        assert manager.url.startswith("https://")
        for certificate in (None, theirs.issue("stranger")):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                Zincati(manager.url, "a", context=tls(ours.ca_file, certificate)).pre_reboot()
        host = Zincati(manager.url, "a", context=tls(ours.ca_file, ours.issue("host")))
        assert host.pre_reboot() == (200, {})


def tls(ca_file: Path, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca_file))
    if certificate:
        context.load_cert_chain(*certificate)
    return context
