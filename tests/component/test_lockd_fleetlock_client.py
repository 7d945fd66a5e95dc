"""Strategy fleetlock: against lock managers that deviate or lie, and as a daemon through our own lock manager."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from lockd.errors import ErrorCode, LocalError, RefusedError, RemoteError
from lockd.fleetlock_client import FleetLockClient, FleetLockOptions, open_fleetlock
from lockd.fleetlock_codec import Params, zincati_id
from lockd.fleetlock_store import FleetLockStore
from lockd.semaphore import Identity, Semaphore
from lockd.tickets import Phase
from tests.support.etcd import Etcd, free_port
from tests.support.fleetlock import Answer, Authority, LockManager, Zincati, odd_server
from tests.support.lockd_host import LockdHost
from tests.support.moving_clock import MovingClock

MACHINE_ID = "0123456789abcdef0123456789abcdef"


@asynccontextmanager
async def client(url: str, secs: float = 20, **more: Path | str) -> AsyncIterator[FleetLockClient]:
    options = FleetLockOptions(url, Params("host-a", "web"), request_timeout_secs=secs, **more)  # type: ignore[arg-type]
    made = open_fleetlock(options)
    try:
        yield made
    finally:
        await made.close()


def always(status: int, body: bytes = b"", **headers: str) -> Callable[[str, dict[str, str], bytes], Answer]:
    return lambda _path, _headers, _body: (
        status,
        {name.replace("_", "-"): text for name, text in headers.items()},
        body,
    )


async def test_request_is_the_protocols() -> None:
    """What goes over the wire is what airlock and Typhoon's fleetlock read: path, header, body."""
    seen: list[tuple[str, dict[str, str], bytes]] = []

    def answer(path: str, headers: dict[str, str], body: bytes) -> Answer:
        seen.append((path, headers, body))
        return 200, {}, b""

    with odd_server(answer) as url:
        async with client(f"{url}fleet/", token="secret") as made:
            await made.lock()
            await made.unlock()
    assert [path for path, _, _ in seen] == ["/fleet/v1/pre-reboot", "/fleet/v1/steady-state"]
    for _, headers, body in seen:
        assert headers["fleet-lock-protocol"] == "true"
        assert headers["authorization"] == "Bearer secret"
        assert json.loads(body) == {"client_params": {"id": "host-a", "group": "web"}}


@pytest.mark.parametrize("body", [b"", b"obtained reboot lease", b'{"kind":"failed_lock"}', b"\xff" * 1000])
async def test_200_is_a_yes_whatever_comes_with_it(body: bytes) -> None:
    """The body of a 200 doesn't matter: airlock sends none, Typhoon's fleetlock a sentence."""
    with odd_server(always(200, body)) as url:
        async with client(url) as made:
            await made.lock()
            await made.unlock()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b'{"kind":"failed_lock","value":"all 2 semaphore slots currently locked"}', "all 2 semaphore slots"),
        (500, b'{"kind":"failed_lock","value":"conflict on semaphore detected, aborting"}', "conflict on semaphore"),
        (423, b'{"kind":"lock_held","value":"reboot lease unavailable, held by x"}', "held by x"),
        (400, b'{"kind":"unknown_group","value":"unknown group"}', "unknown_group"),
        (401, b"", "HTTP 401"),
        (404, b"404 page not found\n", "404 page not found"),
        (502, b"<html>Bad Gateway</html>", "Bad Gateway"),
        (500, b'{"kind":"a\x1b[2J","value":["x"]}', "HTTP 500"),
    ],
)
async def test_no_is_told_in_the_lock_managers_words(status: int, body: bytes, words: str) -> None:
    """Any 4xx or 5xx is a no, as text/plain too, and its reason reaches whoever asks why the host waits."""
    with odd_server(always(status, body, Content_Type="text/plain")) as url:
        async with client(url) as made:
            with pytest.raises(RefusedError) as caught:
                await made.lock()
    assert caught.value.code is ErrorCode.FLEETLOCK_REFUSED
    assert words in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("status", [201, 202, 204, 301, 302, 307, 308])
async def test_anything_else_than_200_is_no_yes(status: int) -> None:
    """Another 2xx isn't the protocol's yes, and a redirect isn't followed: it could lead to anybody."""
    with odd_server(always(200)) as elsewhere, odd_server(always(status, Location=elsewhere)) as url:
        async with client(url) as made:
            with pytest.raises(RemoteError) as caught:
                await made.lock()
    assert caught.value.code is ErrorCode.FLEETLOCK_UNREACHABLE
    assert "base_url" in caught.value.message


async def test_giving_back_nothing_to_typhoons_fleetlock_is_fine() -> None:
    """It answers 423 to a host that gives back while another one holds: this host holds nothing then."""
    held = b'{"kind":"lock_held","value":"held by another"}'
    with odd_server(always(423, held)) as url:
        async with client(url) as made:
            await made.unlock()
            with pytest.raises(RefusedError):
                await made.lock()


async def test_nobody_there_and_nobody_answering_are_told() -> None:
    """A refused connection, silence, and an answer that never ends its first line are errors, in bounded time."""
    with silent_server() as silent, dripping_server() as dripping:
        for url in (f"http://127.0.0.1:{free_port()}/", silent, dripping):
            async with client(url, secs=1) as made:
                with pytest.raises(RemoteError) as caught:
                    await made.lock()
            assert caught.value.code is ErrorCode.FLEETLOCK_UNREACHABLE


@pytest.mark.parametrize("host", ["xn--", "é..", "a" * 64])
async def test_name_that_no_host_has_is_told(host: str) -> None:
    """A base URL whose name can't be looked up is a lock manager that doesn't answer."""
    async with client(f"http://{host}:1/") as found:
        with pytest.raises(RemoteError) as caught:
            await found.lock()
    assert caught.value.code is ErrorCode.FLEETLOCK_UNREACHABLE


async def test_endless_refusal_is_cut() -> None:
    """Of a refusal only the beginning is read."""
    with odd_server(always(500, b"x" * 5_000_000)) as url:
        async with client(url) as made:
            with pytest.raises(RefusedError) as caught:
                await made.lock()
    assert len(caught.value.message) < 500


def test_missing_tls_files_are_told(tmp_path: Path) -> None:
    """A missing CA file is the operator's to correct, not a reason to go without."""
    with pytest.raises(LocalError) as caught:
        open_fleetlock(FleetLockOptions("https://x/", Params("a", "b"), ca_file=tmp_path / "none"))
    assert caught.value.code is ErrorCode.CONFIG


# ---- the store


@asynccontextmanager
async def host(url: str, folder: Path, boot: str = "boot-1") -> AsyncIterator[Semaphore]:
    options = FleetLockOptions(url, Params("host-a", "web"), request_timeout_secs=20)
    store = FleetLockStore(folder / "fleetlock.json", open_fleetlock(options), MACHINE_ID)
    try:
        yield Semaphore(store, MovingClock(), Identity(MACHINE_ID, boot))
    finally:
        await store.close()


class Asked:
    """A lock manager that writes down what it is asked, and says what `status` says."""

    def __init__(self) -> None:
        self.status = 200
        self.paths: list[str] = []

    def __call__(self, path: str, _headers: dict[str, str], _body: bytes) -> Answer:
        self.paths.append(path.rpartition("/")[2])
        return self.status, {}, b""


async def test_unknown_slot_is_taken_for_held_until_the_host_is_healthy(tmp_path: Path) -> None:
    """A host that comes new to the lock manager is treated as one that comes back: it gives back before it takes."""
    asked = Asked()
    with odd_server(asked) as url:
        async with host(url, tmp_path) as first:
            own = (await first.read()).of(MACHINE_ID)
            assert own is not None
            assert (own.claim.phase, own.claim.boot_id) == (Phase.REBOOTING, "unknown")
            assert asked.paths == []
            assert await first.give_back(own)
            assert asked.paths == ["steady-state"]
            assert (await first.read()).tickets == ()


async def test_lock_is_asked_for_again_right_before_the_reboot(tmp_path: Path) -> None:
    """The slot is asked for when it is taken and once more when the host goes: a no at that moment stops it."""
    asked = Asked()
    with odd_server(asked) as url:
        async with host(url, tmp_path) as one:
            await clear(one)
            standing = await one.acquire("1", "2")
            assert standing.granted
            asked.status = 423
            with pytest.raises(RefusedError):
                await one.commit(standing, "1", "2")
            asked.status = 200
            assert await one.commit(standing, "1", "2")
            assert asked.paths[1:] == ["pre-reboot"] * 3


async def test_slot_stays_until_the_lock_manager_knows(tmp_path: Path) -> None:
    """A slot that couldn't be given back isn't forgotten: the ticket stays, and it is tried again."""
    asked = Asked()
    with odd_server(asked) as url:
        async with host(url, tmp_path) as one:
            await clear(one)
            standing = await one.acquire("1", "2")
            assert await one.commit(standing, "1", "2")
        async with host(url, tmp_path, "boot-2") as back:
            own = (await back.read()).of(MACHINE_ID)
            assert own is not None
            asked.status = 503
            with pytest.raises(RefusedError):
                await back.give_back(own)
            assert (await back.read()).of(MACHINE_ID) is not None
            asked.status = 200
            assert await back.give_back(own)
            assert not await back.give_back(own)
            assert asked.paths[-3:] == ["pre-reboot", "steady-state", "steady-state"]


async def test_lock_by_hand_doesnt_believe_in_a_slot_that_nobody_asked_for(tmp_path: Path) -> None:
    """On a host that never asked, `lockctl lock` is refused rather than told that it holds a slot."""
    asked = Asked()
    with odd_server(asked) as url:
        async with host(url, tmp_path) as one:
            with pytest.raises(RefusedError, match="nobody knows yet") as caught:
                await one.lock_by_hand(MACHINE_ID)
            assert caught.value.code is ErrorCode.FORCE_NEEDED
            assert asked.paths == []
            await clear(one)
            await one.lock_by_hand(MACHINE_ID)
            assert asked.paths == ["steady-state", "pre-reboot"]


async def test_what_is_the_lock_managers_is_refused(tmp_path: Path) -> None:
    """max, and slots for other hosts, are none of this host's business; its own pause is."""
    with odd_server(Asked()) as url:
        async with host(url, tmp_path) as one:
            await clear(one)
            for refused in (one.set_max(2), one.lock_by_hand("host-b")):
                with pytest.raises(RefusedError) as caught:
                    await refused
                assert caught.value.code is ErrorCode.NO_TICKETS
            await one.pause(by="me", reason="why")
            assert not (await one.acquire("1", "2")).granted


async def clear(one: Semaphore) -> None:
    """Give back what the lock manager may hold at the beginning."""
    (own,) = (await one.read()).tickets
    assert await one.give_back(own)


# ---- with a real lock manager


async def test_stranger_with_a_certificate_is_not_asked(etcd: Etcd, tmp_path: Path) -> None:
    """A lock manager whose certificate another authority signed gets no request, and so can say no yes."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    cert, key = theirs.issue("server")
    more = f'insecure = true\ngroups = ["web"]\ncert_file = "{cert}"\nkey_file = "{key}"'
    with LockManager(tmp_path / "stranger", etcd.endpoint, more) as manager:
        async with client(manager.url, ca_file=theirs.ca_file) as made:
            await made.lock()
        async with client(manager.url, ca_file=ours.ca_file) as made:
            with pytest.raises(RemoteError, match="certificate"):
                await made.lock()


def test_host_far_from_etcd_takes_part_in_the_queue(etcd: Etcd, tmp_path: Path) -> None:
    """Over mutual TLS and a token, a host reboots in its turn, and gives its slot back once it is healthy, not before.

    Beside it, a host with its tickets in etcd: each waits for the other.
    """
    authority = Authority(tmp_path / "ca")
    (server_cert, server_key), (cert, key) = authority.issue("server"), authority.issue("host")
    (tmp_path / "token").write_text("secret\n")
    more = (
        f'cert_file = "{server_cert}"\nkey_file = "{server_key}"\nclient_ca_file = "{authority.ca_file}"\n'
        f'token_file = "{tmp_path}/token"\ngroups = ["web"]'
    )
    direct = f'strategy = "etcd"\nmin_remaining_secs = 0\n[etcd]\nendpoints = ["{etcd.endpoint}"]\nprefix = "/m"'
    with (
        LockManager(tmp_path / "m", etcd.endpoint, more) as manager,
        LockdHost(tmp_path / "far", "far", far_policy(manager.url, authority, cert, key, tmp_path / "token")) as far,
        LockdHost(tmp_path / "near", "near", direct) as near,
    ):
        far.start()
        far.wait_log("ticket-released")  # what an earlier life may have left
        far.need_reboot("1.1.0")
        far.wait_reboot()
        near.start()
        near.need_reboot("1.1.0")
        assert "far-id (rebooting)" in near.wait_gate("ticket")["reason"]
        far.power_cycle(boot_confirmed=False)
        far.wait_gate("release")
        assert near.holders() == {"far-id": "rebooting"}
        far.agent.say(boot_confirmed=True)
        near.wait_reboot()
        assert near.holders() == {"near": "rebooting"}
        far.need_reboot("1.2.0")
        gate = far.wait_gate("ticket")
        assert "near (rebooting)" in gate["reason"]
        assert not far.reboot_file.exists()
        near.power_cycle()
        near.wait_log("ticket-released")
        far.need_reboot("1.2.0")  # it would ask again by itself, but not at once
        far.wait_reboot()


def far_policy(url: str, authority: Authority, cert: Path, key: Path, token: Path) -> str:
    return (
        f'strategy = "fleetlock"\nmin_remaining_secs = 0\n[fleetlock]\nbase_url = "{url}"\nid = "far-id"\n'
        f'ca_file = "{authority.ca_file}"\ncert_file = "{cert}"\nkey_file = "{key}"\ntoken_file = "{token}"\n'
    )


def test_host_moved_over_from_zincati_keeps_its_identity(etcd: Etcd, tmp_path: Path) -> None:
    """A slot that Zincati took on this host is given back by lockd once it is healthy: both have the same id."""
    with LockManager(tmp_path / "moved", etcd.endpoint, 'insecure = true\ngroups = ["web"]') as manager:
        former = Zincati(manager.url, zincati_id(MACHINE_ID), group="web")
        other = Zincati(manager.url, "other", group="web")
        assert former.pre_reboot() == (200, {})
        assert other.pre_reboot()[0] == 423
        policy = f'strategy = "fleetlock"\n[fleetlock]\nbase_url = "{manager.url}"'
        with LockdHost(tmp_path / "host", MACHINE_ID, policy) as moved:
            moved.start()
            moved.wait_log("ticket-released")
        assert other.pre_reboot() == (200, {})


# ---- servers that aren't HTTP's


@contextmanager
def silent_server() -> Iterator[str]:
    """Accept connections, and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"


@contextmanager
def dripping_server() -> Iterator[str]:
    """Send headers for ever, one byte at a time."""
    stop = threading.Event()

    def drip(sock: socket.socket) -> None:
        connection, _ = sock.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 500 No\r\nX: ")
            try:
                while not stop.wait(0.05):
                    connection.sendall(b"x")
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=drip, args=(sock,))
        thread.start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        stop.set()
        thread.join()
