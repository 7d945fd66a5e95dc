"""The way to a server, for updates and for downloads: a private authority, credentials, a proxy that is configured."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.forward_proxy import ForwardProxy
from tests.support.loopback_http import LoopbackHttp, QuietHandler
from tests.support.lying_server import LyingServer
from updated.agent.download import open_http
from updated.config import DownloadSettings, ServerSettings, Settings
from updated.errors import ErrorCode, RemoteError
from updated.install.fetch import HttpSource
from updated.install.ranges import Span
from updated.omaha import client as omaha
from updated.omaha.request import parse_request

BODY = bytes(range(256)) * 1000
BASIC = "Basic " + base64.b64encode(b"fleet:hush").decode()
EXCHANGE = Path(__file__).parents[2] / "fixtures/omaha/neb-noupdate-same-version"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def server(authority: Authority) -> Iterator[LyingServer]:
    """A download server behind TLS."""
    with LyingServer(BODY, pair=authority.issue("server")) as running:
        yield running


def settings(ca_file: Path | None, proxy: str | None = None, *, account: str = "") -> Settings:
    user, _, password = account.partition(":")
    return Settings(
        server=ServerSettings(ca_file=ca_file, proxy=proxy, proxy_user=user, proxy_password=password),
        download=DownloadSettings(user="fleet", password="hush", credential_hosts=("127.0.0.1",)),
    )


def download(
    url: str, ca_file: Path | None = None, proxy: str | None = None, *, anonymous: bool = False, account: str = ""
) -> bytes:
    """Download from a server as the daemon does, its first and its last bytes, by two requests."""
    with open_http(settings(ca_file, proxy, account=account), anonymous=anonymous) as http:
        source = HttpSource([url + "/payload"], http=http, expected_size=len(BODY))
        return b"".join(b"".join(source.read([span])) for span in (Span(0, 1000), Span(1000)))


def test_server_of_a_private_authority_is_believed(server: LyingServer, authority: Authority) -> None:
    """With server.ca_file a download comes over TLS."""
    assert download(server.url, authority.ca) == BODY


@pytest.mark.parametrize("trusted", ["another", None])
def test_server_of_a_strange_authority_is_not(
    server: LyingServer, tmp_path: Path, trusted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another private authority's word counts nor, without one, that of the system's: nothing is asked."""
    monkeypatch.setattr("updated.install.effort.Effort.pause_after", lambda *_: None)
    ca_file = Authority(tmp_path / trusted).ca if trusted else None
    with pytest.raises(RemoteError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        download(server.url, ca_file)
    assert caught.value.code is ErrorCode.DOWNLOAD_TRANSFER
    assert server.requests == []


def test_user_and_password_arrive(server: LyingServer, authority: Authority) -> None:
    """A server that wants them gets them with each request; a download that is to be anonymous doesn't send them."""
    download(server.url, authority.ca)
    assert [headers.get("Authorization") for headers in server.headers] == [BASIC, BASIC]
    server.headers.clear()
    download(server.url, authority.ca, anonymous=True)
    assert [headers.get("Authorization") for headers in server.headers] == [None, None]


def test_download_goes_through_the_proxy() -> None:
    """What isn't encrypted is asked of the proxy, by its whole URL."""
    with LyingServer(BODY) as plain, ForwardProxy() as proxy:
        assert download(plain.url, proxy=proxy.url) == BODY
        assert proxy.asked == 2 * [f"GET {plain.url}/payload"]
        assert len(plain.requests) == 2


def test_proxy_sees_nothing_of_what_is_encrypted(server: LyingServer, authority: Authority) -> None:
    """Through a tunnel come the payload and, for the server alone, user and password."""
    with ForwardProxy() as proxy:
        assert download(server.url, authority.ca, proxy.url) == BODY
        assert proxy.asked == ["CONNECT " + server.url.removeprefix("https://")]
        assert not any("Authorization: Basic" in head for head in proxy.heads)
    assert [headers.get("Authorization") for headers in server.headers] == [BASIC, BASIC]


@pytest.mark.parametrize("encrypted", [False, True])
def test_proxy_may_want_an_account(authority: Authority, encrypted: bool) -> None:
    """server.proxy_user and server.proxy_password are the proxy's, and no server sees them."""
    pair = authority.issue("server") if encrypted else None
    with LyingServer(BODY, pair=pair) as there, ForwardProxy(account="host:word") as proxy:
        assert download(there.url, authority.ca, proxy.url, account="host:word") == BODY
        assert not any("Proxy-Authorization" in headers for headers in there.headers)


@pytest.mark.parametrize("encrypted", [False, True])
def test_proxy_that_refuses_is_an_error(authority: Authority, encrypted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server isn't asked past the proxy; what is reported is the proxy's status."""
    monkeypatch.setattr("updated.install.effort.Effort.pause_after", lambda *_: None)
    pair = authority.issue("server") if encrypted else None
    with LyingServer(BODY, pair=pair) as there, ForwardProxy(account="host:word") as proxy:
        with pytest.raises(RemoteError, match="407"):
            download(there.url, authority.ca, proxy.url)
        assert there.requests == []


class Omaha(LoopbackHttp):
    """An update server that has nothing newer."""

    def __init__(self, authority: Authority) -> None:
        self.asked: list[bytes] = []
        outer = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802  http.server looks it up by this name
                outer.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
                answer = (EXCHANGE / "response.xml").read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        super().__init__(Handler, authority.issue("omaha"))


def ask(url: str, ca_file: Path | None, proxy: str | None = None) -> None:
    """Ask whether there is an update."""

    async def send() -> None:
        async with omaha.make_http(ca_file=ca_file, proxy=proxy) as http:
            await omaha.OmahaClient(url, http=http).send(parse_request((EXCHANGE / "request.xml").read_bytes()))

    asyncio.run(send())


def test_update_server_is_asked_by_the_same_way(authority: Authority, tmp_path: Path) -> None:
    """server.ca_file and server.proxy are for the update server, too; another authority's isn't asked."""
    with Omaha(authority) as there, ForwardProxy() as proxy:
        ask(there.url, authority.ca)
        assert proxy.asked == []
        ask(there.url, authority.ca, proxy.url)
        assert proxy.asked == ["CONNECT " + there.url.removeprefix("https://")]
        assert len(there.asked) == 2
        with pytest.raises(RemoteError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            ask(there.url, Authority(tmp_path / "another").ca)
        assert caught.value.code is ErrorCode.OMAHA_UNREACHABLE
        assert len(there.asked) == 2
