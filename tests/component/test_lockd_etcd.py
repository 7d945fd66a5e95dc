"""The client of etcd's JSON gateway against a real etcd: failover, TLS, authentication, watches, leases."""

from __future__ import annotations

import asyncio
import datetime as dt
import http.server
import ipaddress
import json
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lockd import etcd_codec as codec
from lockd.errors import ErrorCode, LocalError, RefusedError, RemoteError
from lockd.etcd import EtcdClient, EtcdOptions, open_etcd
from tests.support.etcd import Etcd, free_port


@asynccontextmanager
async def client(
    *endpoints: str, ca_file: Path | None = None, username: str = "", password: str = ""
) -> AsyncIterator[EtcdClient]:
    made = open_etcd(EtcdOptions(endpoints, ca_file, username=username, password=password, request_timeout_secs=1.0))
    try:
        yield made
    finally:
        await made.close()


async def put(found: EtcdClient, key: str, value: bytes = b"x", lease: int = 0) -> int:
    return (await found.txn([], [codec.put(key, value, lease)])).revision


async def test_refused_and_silent_endpoints_are_passed_over(etcd: Etcd, tmp_path: Path) -> None:
    """A member that refuses connections, or accepts them and says nothing, isn't the end: the next one is asked."""
    with Etcd(tmp_path / "silent") as silent:
        silent.pause()
        async with client(f"http://127.0.0.1:{free_port()}", silent.endpoint, etcd.endpoint) as found:
            await put(found, "/failover/a")
            before = found.requests
            await put(found, "/failover/b")
            assert found.requests == before + 1  # the one that answered is asked first from then on


async def test_failing_endpoint_is_passed_over(etcd: Etcd) -> None:
    """A 5xx (a proxy without a backend, a member without a leader) moves on to the next endpoint."""
    with answering(503, b'{"error":"etcdserver: no leader","code":14}') as broken:
        async with client(broken, etcd.endpoint) as found:
            await put(found, "/failover/c")


async def test_no_endpoint_left_is_told_with_each_reason() -> None:
    """When nobody serves, the error names every endpoint and what was wrong with it."""
    refused = f"http://127.0.0.1:{free_port()}"
    with answering(500, b"oops") as broken:
        async with client(refused, broken) as found:
            with pytest.raises(RemoteError) as caught:
                await put(found, "/nobody")
    assert caught.value.code is ErrorCode.ETCD_UNREACHABLE
    assert refused in caught.value.message
    assert f"{broken}: HTTP 500: oops" in caught.value.message


@pytest.mark.parametrize("host", ["xn--", "xn--a", "é..", "a" * 64, "1.2.3.4.5.é", "\u2488com"])
async def test_endpoint_with_a_name_that_no_host_has_is_passed_over(etcd: Etcd, host: str) -> None:
    """A name that can't be looked up can't serve: the next endpoint is asked, and alone it is told of; a watch ends."""
    request = codec.watch("/names", start_revision=1, deletes_only=False)
    async with client(f"http://{host}:1", etcd.endpoint) as found:
        await put(found, "/names")
        found._endpoints.reverse()
        async with asyncio.timeout(30):
            await found.watch(request, 600)
    async with client(f"http://{host}:1") as found:
        with pytest.raises(RemoteError) as caught:
            await put(found, "/names")
        await found.watch(request, 0.1)
    assert caught.value.code is ErrorCode.ETCD_UNREACHABLE


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"header":{"revision":"3"},"succeeded":true}'])
async def test_answer_that_makes_no_sense_is_an_error(body: bytes) -> None:
    """A 200 from something that isn't etcd grants nothing."""
    with answering(200, body) as stranger:
        async with client(stranger) as found:
            with pytest.raises(RemoteError) as caught:
                await found.txn([], [codec.read("/x")])
    assert caught.value.code is ErrorCode.ETCD_ANSWER


async def test_read_that_did_not_succeed_is_an_error() -> None:
    """A read has no conditions, so an answer that says it wasn't done isn't taken for an empty queue."""
    with answering(200, b'{"header":{"revision":"3"}}') as stranger:
        async with client(stranger) as found:
            with pytest.raises(RemoteError) as caught:
                await found.read([codec.read("/x")])
    assert caught.value.code is ErrorCode.ETCD_ANSWER


async def test_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer over the limit is refused instead of filling the memory."""
    monkeypatch.setattr(codec, "ANSWER_LIMIT", 1000)
    with answering(200, b"x" * 5000) as stranger:
        async with client(stranger) as found:
            with pytest.raises(RemoteError, match="over 1000 bytes"):
                await found.txn([], [codec.read("/x")])


async def test_older_api_prefix_is_found() -> None:
    """A gateway that knows only /v3beta is found, and asked there at once from then on."""
    with answering(200, b'{"header":{"revision":"3"}}', prefix="/v3beta") as old:
        async with client(old) as found:
            await found.txn([], [])
            before = found.requests
            await found.txn([], [])
            assert found.requests == before + 1


async def test_watch_returns_on_a_change_made_before_and_after_it_began(etcd: Etcd) -> None:
    """Nothing between the look and the watch is missed, and a later change ends it at once."""
    async with client(etcd.endpoint) as found:
        revision = await put(found, "/watch/a")
        request = codec.watch("/watch/a", start_revision=revision, deletes_only=False)
        async with asyncio.timeout(20):
            await found.watch(request, 60)
            later = codec.watch("/watch/a", start_revision=revision + 1, deletes_only=True)
            watching = asyncio.create_task(found.watch(later, 60))
            await put(found, "/watch/a")  # a change, but no delete
            await found.txn([], [codec.delete("/watch/a")])
            await watching


async def test_watch_without_a_change_ends_with_its_time(etcd: Etcd) -> None:
    """A watch is bounded: its owner looks again at the latest after the time."""
    async with client(etcd.endpoint) as found, asyncio.timeout(20):
        await found.watch(codec.watch("/watch/none", start_revision=1, deletes_only=False), 0.2)


async def test_expired_lease_takes_its_key_along(etcd: Etcd) -> None:
    """A waiter that dies leaves the queue: its key goes with its lease, which is gone when asked for."""
    async with client(etcd.endpoint) as found:
        lease = await found.grant_lease(1)
        revision = await put(found, "/lease/a", lease=lease)
        async with asyncio.timeout(60):
            await found.watch(codec.watch("/lease/a", start_revision=revision + 1, deletes_only=True), 60)
        assert not await found.keep_lease(lease)
        with pytest.raises(RemoteError) as caught:
            await put(found, "/lease/a", lease=lease)
        assert caught.value.code is ErrorCode.ETCD_REFUSED


async def test_authority_alone_is_enough_for_tls(tmp_path: Path) -> None:
    """With only ca_file set, TLS works, and a server that it doesn't vouch for isn't spoken to."""
    cert = make_certificate(tmp_path)
    with Etcd(tmp_path / "etcd", cert=cert) as secure:
        async with client(secure.endpoint, ca_file=cert[0]) as found:
            await put(found, "/tls")
        async with client(secure.endpoint) as found:
            with pytest.raises(RemoteError, match="certificate"):
                await put(found, "/tls")


def test_unreadable_tls_files_are_told(tmp_path: Path) -> None:
    """A missing CA file is the operator's to correct, not a reason to go without."""
    with pytest.raises(LocalError) as caught:
        open_etcd(EtcdOptions(("https://127.0.0.1:1",), ca_file=tmp_path / "none.pem"))
    assert caught.value.code is ErrorCode.CONFIG


async def test_users_tokens_are_renewed_and_refusals_explained(tmp_path: Path) -> None:
    """With authentication on: the right user gets in, keeps going after its token expired, the wrong one is told."""
    with Etcd(tmp_path / "etcd", "--auth-token-ttl=1") as guarded:
        enable_authentication(guarded.endpoint)
        async with client(guarded.endpoint, username="root", password="right") as found:
            await put(found, "/auth/a")
            found._token = "stale.1"  # as after --auth-token-ttl
            await put(found, "/auth/b")
        for username, password in (("root", "wrong"), ("", "")):
            async with client(guarded.endpoint, username=username, password=password) as found:
                with pytest.raises(RefusedError) as caught:
                    await put(found, "/auth/c")
                assert caught.value.code is ErrorCode.ETCD_AUTH


async def test_common_name_trap_is_explained() -> None:
    """The gateway's refusal of client certificates with a common name comes with the way out."""
    text = b"CommonName of client sending a request against gateway will be ignored and not used as expected"
    with answering(400, text) as gateway:
        async with client(gateway) as found:
            with pytest.raises(RefusedError) as caught:
                await put(found, "/cn")
    assert "no CN" in caught.value.hint


# ---- means


@contextmanager
def answering(status: int, body: bytes, prefix: str = "/v3") -> Iterator[str]:
    """Run a server that answers every POST below a prefix with the same thing, and 404 as plain text elsewhere."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path.startswith(f"{prefix}/")
            self.send_response(status if known else 404)
            answer = body if known else b"404 page not found\n"
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def enable_authentication(endpoint: str) -> None:
    for path, body in (
        ("user/add", {"name": "root", "password": "right"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("enable", {}),
    ):
        request = urllib.request.Request(f"{endpoint}/v3/auth/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return paths
