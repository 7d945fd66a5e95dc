"""Getting into a real etcd: mutual TLS, users, tokens that run out, the trap of common names, API prefixes, history."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from lockd import etcd as etcd_room
from lockd import etcd_codec as codec
from lockd.errors import ErrorCode, RefusedError, RemoteError
from lockd.etcd import EtcdClient, EtcdOptions, open_etcd
from tests.support.certificates import Authority, Pair
from tests.support.etcd import Etcd, MutualEtcd


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[GuardedEtcd]:
    with GuardedEtcd(tmp_path_factory.mktemp("mutual"), authority) as running:
        yield running


class GuardedEtcd(MutualEtcd):
    """One with users."""

    def forget_tokens(self, name: str, password: str) -> None:
        """Have etcd forget a user's tokens, as it does when they run out: here because the password was set anew."""
        token = tell(self.endpoint, "auth/authenticate", {"name": "root", "password": "right"}, self.context)["token"]
        assert (
            ask(self.endpoint, "auth/user/changepw", {"name": name, "password": password}, self.context, token) == 200
        )


@asynccontextmanager
async def client(
    endpoint: str, authority: Authority | None = None, pair: Pair | None = None, user: tuple[str, str] = ("", "")
) -> AsyncIterator[EtcdClient]:
    options = EtcdOptions(
        (endpoint,), authority.ca if authority else None, pair.cert if pair else None, pair.key if pair else None, *user
    )
    made = open_etcd(options)
    try:
        yield made
    finally:
        await made.close()


async def put(found: EtcdClient, key: str) -> int:
    return (await found.txn([], [codec.put(key, b"x")])).revision


def tell(endpoint: str, path: str, body: dict[str, Any], context: ssl.SSLContext | None) -> dict[str, Any]:
    """Send a request as anybody could; return the answer."""
    request = urllib.request.Request(f"{endpoint}/v3/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return dict(json.load(answer))


def ask(endpoint: str, path: str, body: dict[str, Any], context: ssl.SSLContext | None, token: str = "") -> int:
    """Send a request as anybody could; return the status."""
    headers = {"Authorization": token} if token else {}
    request = urllib.request.Request(f"{endpoint}/v3/{path}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def enable_users(endpoint: str, context: ssl.SSLContext | None) -> None:
    """Turn authentication on, with root and with a user who may touch what is below /lockd/ only."""
    ranged = {"permType": "READWRITE", "key": "L2xvY2tkLw==", "range_end": "L2xvY2tkMA=="}
    for path, body in (
        ("user/add", {"name": "root", "password": "right"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "lockd", "password": "secret"}),
        ("role/add", {"name": "lockd"}),
        ("role/grant", {"name": "lockd", "perm": ranged}),
        ("user/grant", {"user": "lockd", "role": "lockd"}),
        ("enable", {}),
    ):
        assert ask(endpoint, f"auth/{path}", body, context) == 200, path


async def test_mutual_tls(mutual: GuardedEtcd, authority: Authority) -> None:
    """With a certificate, common name or not, a host gets in; without one, or without the authority, it is told."""
    for name in ("", "host-7"):
        async with client(mutual.endpoint, authority, authority.issue("host", common_name=name)) as found:
            assert await put(found, "/mutual/a") > 0
    async with client(mutual.endpoint, authority) as found:
        with pytest.raises(RemoteError) as caught:
            await put(found, "/mutual/b")
    assert caught.value.code is ErrorCode.ETCD_UNREACHABLE


async def test_users_on_mutual_tls(authority: Authority, tmp_path: Path) -> None:
    """A certificate without a common name, and a user and a password, is what the gateway takes: the rest is told."""
    with GuardedEtcd(tmp_path / "etcd", authority) as guarded:
        enable_users(guarded.endpoint, guarded.context)
        plain, named = authority.issue("plain"), authority.issue("named", common_name="host-7")
        async with client(guarded.endpoint, authority, named, ("lockd", "secret")) as found:
            with pytest.raises(RefusedError) as trap:
                await put(found, "/lockd/a")
        assert (trap.value.code, "no CN" in trap.value.hint) == (ErrorCode.ETCD_AUTH, True)
        async with client(guarded.endpoint, authority, plain, ("lockd", "secret")) as found:
            assert await put(found, "/lockd/a") > 0
            with pytest.raises(RefusedError) as outside:
                await put(found, "/elsewhere")
            assert outside.value.code is ErrorCode.ETCD_AUTH
            guarded.forget_tokens("lockd", "secret")
            before = found.requests
            assert await put(found, "/lockd/b") > 0
            assert found.requests == before + 3  # refused, a new token, and again


async def test_token_outlives_a_change_of_users(tmp_path: Path) -> None:
    """A JWT is of one revision of etcd's users: after any change of theirs a new one is got, within the request."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = tmp_path / "jwt.key", tmp_path / "jwt.pub"
    form = serialization.PrivateFormat.TraditionalOpenSSL
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    sign = f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=1h"
    with Etcd(tmp_path / "etcd", "--auth-token", sign) as guarded:
        enable_users(guarded.endpoint, None)
        root = {"name": "root", "password": "right"}
        async with client(guarded.endpoint, user=("lockd", "secret")) as found:
            assert await put(found, "/lockd/a") > 0
            token = tell(guarded.endpoint, "auth/authenticate", root, None)["token"]
            zoe = {"name": "zoe", "password": "x"}
            assert ask(guarded.endpoint, "auth/user/add", zoe, None, token) == 200
            before = found.requests
            assert await put(found, "/lockd/b") > 0
            assert found.requests == before + 3  # refused, a new token, and again
            with pytest.raises(RefusedError):
                await put(found, "/elsewhere")


async def test_each_prefix_of_a_real_gateway(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever prefix is tried first, the one that this etcd knows is found."""
    for first in ("/v3alpha", "/v3beta", "/v3"):
        others = [prefix for prefix in ("/v3", "/v3beta", "/v3alpha") if prefix != first]
        monkeypatch.setattr(etcd_room, "API_PREFIXES", (first, *others))
        async with client(etcd.endpoint) as found:
            assert await put(found, "/prefix") > 0


async def test_watch_into_a_compacted_past_ends_at_once(etcd: Etcd) -> None:
    """Who asks for changes that etcd has forgotten is sent to look, instead of waiting for a change to come."""
    async with client(etcd.endpoint) as found:
        revision = max([await put(found, "/compacted") for _ in range(3)])
        assert ask(etcd.endpoint, "kv/compaction", {"revision": str(revision)}, None) == 200
        async with asyncio.timeout(30):
            await found.watch(codec.watch("/other", start_revision=1, deletes_only=True), 600)


async def test_watch_passes_over_a_dead_endpoint(etcd: Etcd, tmp_path: Path) -> None:
    """A member that died since the last look doesn't make its clients deaf: they watch at the next one."""
    with Etcd(tmp_path / "dead") as dead:
        made = open_etcd(EtcdOptions((dead.endpoint, etcd.endpoint)))
    revision = await put_at(etcd.endpoint, "/dead")
    async with asyncio.timeout(30):
        await made.watch(codec.watch("/dead", start_revision=revision, deletes_only=False), 600)
    await made.close()


async def put_at(endpoint: str, key: str) -> int:
    async with client(endpoint) as found:
        return await put(found, key)
