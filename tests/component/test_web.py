"""The one HTTP client: what a server of a daemon's may send, for how long, and what is shown of it."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Iterable, Iterator
from itertools import repeat

import brotli
import httpx
import pytest

from tests.support.raw_server import RawServer
from updated.common.web import (
    WebAnswer,
    WebBounds,
    WebError,
    WebSizeError,
    WebTimeoutError,
    ask,
    make_proxy,
    open_client,
    open_lines,
    tls_context,
    told_by,
)

OK = b"HTTP/1.1 200 OK\r\n"
BOUNDS = WebBounds(secs=20.0, body_bytes=1000)


def fetch(url: str, bounds: WebBounds = BOUNDS, *, beginning_only: bool = False) -> WebAnswer:
    async def run() -> WebAnswer:
        async with open_client(tls_context(), timeout_secs=bounds.secs) as http:
            return await ask(http, "GET", url, bounds, beginning_only=beginning_only)

    return asyncio.run(run())


def answering(*pieces: bytes) -> RawServer:
    return RawServer(lambda _head: pieces)


def test_an_answer_comes_as_it_is() -> None:
    """Status, head and body arrive, and nothing was asked for but identity."""
    with answering(OK + b"Content-Length: 2\r\nX-Y: z\r\n\r\nab") as server:
        answer = fetch(server.url + "/")
    assert (answer.status, answer.headers["x-y"], answer.body) == (200, "z", b"ab")
    assert b"accept-encoding: identity\r\n" in server.heads[0].lower()


def drip(server: RawServer, head: bytes, piece: bytes) -> Iterator[bytes]:
    yield head
    while server.pause(0.05):
        yield piece


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (OK + b"Content-Length: 900\r\n\r\n", b"x"),
        (OK + b"X: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ],
    ids=["body", "head", "100-continue", "102", "chunk extension"],
)
def test_dripping_server_is_left_at_the_deadline(head: bytes, piece: bytes) -> None:
    """Bytes that come one by one, each in time, in whatever part of an answer, don't outlast the whole exchange."""
    holder: list[RawServer] = []
    with RawServer(lambda _head: drip(holder[0], head, piece)) as server:
        holder.append(server)
        with pytest.raises(WebTimeoutError, match="no whole answer came in 1 s"):
            fetch(server.url + "/", WebBounds(1.0, 1000))
        assert server.ended.wait(20), "the connection was left open"


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"])
def test_flood_of_interim_answers_ends_at_the_deadline(interim: bytes) -> None:
    """Interim answers as fast as the line takes them leave the loop its turns, and are over with the deadline."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    async def run(url: str) -> None:
        counting = asyncio.create_task(count())
        async with open_client(tls_context(), timeout_secs=5) as http:
            with pytest.raises(WebTimeoutError):
                await ask(http, "GET", url, WebBounds(1.0, 1000))
        counting.cancel()

    with RawServer(lambda _head: repeat(interim * 2000)) as server:
        asyncio.run(run(server.url + "/"))
    assert turns > 0


@pytest.mark.parametrize(
    "told", [b"Content-Length: 5000\r\n\r\n", b"\r\n", b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"]
)
def test_endless_body_is_left_where_it_is_too_large(told: bytes) -> None:
    """A body over its bound is refused, whether its length was told or not, and however long that number is."""
    with RawServer(lambda _head: [OK + told, *repeat(b"x" * 1000, 100_000)]) as server:
        with pytest.raises(WebError):
            fetch(server.url + "/")
        assert server.ended.wait(20)


def test_of_a_refusal_the_beginning_is_enough() -> None:
    """Who wants no more than the beginning gets it, and the rest isn't waited for."""
    with RawServer(lambda _head: [OK + b"\r\n", *repeat(b"x" * 1000, 100_000)]) as server:
        assert fetch(server.url + "/", beginning_only=True).body == b"x" * 1000


@pytest.mark.parametrize("coding", ["gzip", "br", "x-gzip", "deflate", "zstd", "identity, br", "GZIP"])
def test_packed_bomb_is_refused_unopened(coding: str) -> None:
    """A few hundred bytes that unpack to hundreds of MiB are refused by their label, not unpacked."""
    packed = brotli.compress(bytes(2**28)) if "br" in coding else gzip.compress(bytes(2**24))
    head = OK + f"Content-Encoding: {coding}\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    with answering(head + packed) as server, pytest.raises(WebError, match="packed"):
        fetch(server.url + "/", WebBounds(20, 10**6))


@pytest.mark.parametrize("coding", ["", "identity", "utf-8", "aws-chunked", "none"])
def test_label_that_is_no_coding_says_nothing(coding: str) -> None:
    """A Content-Encoding that names none leaves the body what it is."""
    with answering(OK + f"Content-Encoding: {coding}\r\nContent-Length: 2\r\n\r\nab".encode()) as server:
        assert fetch(server.url + "/").body == b"ab"


def test_redirect_is_told_and_not_followed() -> None:
    """Where a redirect leads is told without what may be a secret in it: user, password and query."""
    head = b"HTTP/1.1 302 Found\r\nLocation: https://u:hush@cdn.example/p?sig=hush\r\nContent-Length: 0\r\n\r\n"
    with answering(head) as server:
        answer = fetch(server.url + "/")
        assert len(server.heads) == 1
    told = told_by(answer.status, answer.headers)
    assert told == "302, a redirect to https://cdn.example/p?..."


def test_what_a_head_says_is_bounded_and_printable() -> None:
    """Escapes and texts of kilobytes in a head don't reach a terminal."""
    head = b"HTTP/1.1 503 No\r\nRetry-After: \x1b[2J" + b"9" * 5000 + b"\r\nContent-Length: 0\r\n\r\n"
    with answering(head) as server:
        try:
            answer = fetch(server.url + "/")
            told = told_by(answer.status, answer.headers)
        except WebError as error:  # the library may refuse such a head by itself
            told = str(error)
    assert told.isprintable()
    assert len(told) < 400


@pytest.mark.parametrize("answer", [b"\x16\x03\x01\x1b]0;owned\x07" * 100, b"HTTP/1.1 2OO OK\r\n\r\n", b""])
def test_what_is_no_http_is_an_error_fit_to_be_shown(answer: bytes) -> None:
    """Whatever answers, the error is one printable line of bounded length."""
    with answering(answer) as server, pytest.raises(WebError) as caught:
        fetch(server.url + "/")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "url", ["http://a..b/", "http://[::1/", "http://x\x00y/", "https://127.0.0.1:1/", "gopher://x/"]
)
def test_url_that_leads_nowhere_is_an_error(url: str) -> None:
    """No URL raises anything but our own error."""
    with pytest.raises(WebError):
        fetch(url)


def read_lines(url: str, line_bytes: int) -> list[bytes]:
    async def run() -> list[bytes]:
        async with open_client(tls_context(), timeout_secs=20) as http:
            wait = httpx.Timeout(20)
            async with open_lines(http, url, json={}, headers={}, wait=wait, line_bytes=line_bytes) as (_, lines):
                return [line async for line in lines]

    return asyncio.run(run())


def chunks(data: bytes, size: int) -> Iterable[bytes]:
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def test_lines_come_one_by_one_wherever_they_are_cut() -> None:
    """Lines arrive whole whatever pieces they come in, and empty ones are left out."""
    data = b'{"a":1}\n\n{"b":2}\n \n{"c":3}\n'
    for size in (1, 3, 100):
        body = b"".join(chunks(data, size))
        with answering(OK + b"Transfer-Encoding: chunked\r\n\r\n" + body) as server:
            assert read_lines(server.url + "/", 100) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


def test_endless_line_in_small_pieces_is_left_at_its_bound() -> None:
    """A line of which each byte comes by itself is refused where it is too long."""
    body = b"".join(chunks(b"x" * 20_000, 1))
    with answering(OK + b"Transfer-Encoding: chunked\r\n\r\n" + body) as server, pytest.raises(WebSizeError):
        read_lines(server.url + "/", 10_000)


def test_certificates_are_judged_alike_by_every_python() -> None:
    """What Python 3.13 newly demands of an authority isn't demanded, and what it newly allows is allowed."""
    flags = tls_context().verify_flags
    assert not flags & ssl.VERIFY_X509_STRICT
    assert flags & ssl.VERIFY_X509_PARTIAL_CHAIN


def test_proxys_account_is_no_part_of_its_url() -> None:
    """User and password go to the proxy, and its URL stays one that can be shown."""
    proxy = make_proxy("http://p.example:3128", "host", "hush")
    assert proxy is not None
    assert (str(proxy.url), proxy.raw_auth) == ("http://p.example:3128", (b"host", b"hush"))
    assert make_proxy(None) is None
