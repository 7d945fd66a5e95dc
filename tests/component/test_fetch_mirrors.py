"""Mirrors and download servers as they are: redirects, whole files for ranges, labels, slow ones, many that fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.lying_server import Lie, LyingServer
from updated.errors import ErrorCode, RemoteError
from updated.install.effort import Effort
from updated.install.fetch import MOST_REDIRECTS, Credentials, HttpSource, make_http
from updated.install.pace import FetchLimits
from updated.install.ranges import Span

BODY = bytes(range(256)) * 4000
SPANS = [Span(1000, 2000), Span(300_000, 301_000), Span(900_000, 901_000)]
WANTED = b"".join(BODY[span.begin : span.end] for span in SPANS)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def read(
    urls: Sequence[str], spans: Sequence[Span], effort: Effort | None = None, ca_file: Path | None = None
) -> bytes:
    credentials = Credentials("fleet", "hush", frozenset({"localhost"}))
    with make_http(timeout_secs=20, ca_file=ca_file, credentials=credentials) as http:
        source = HttpSource(urls, http=http, expected_size=len(BODY), effort=effort)
        return b"".join(source.read(spans))


@pytest.mark.parametrize("multi", ["whole", "first"])
def test_server_that_sends_one_range_rightly_is_asked_for_one_at_a_time(multi: str) -> None:
    """A server that answers several ranges with the whole file, or the first, sends little more than was wanted."""

    def lie(number: int) -> Lie:
        return Lie(ignore_range=True) if multi == "whole" and number == 0 else Lie(first_range_only=True)

    with LyingServer(BODY, lie) as server:
        assert read([server.url + "/p"], SPANS) == WANTED
        asked = [text for _, text in server.requests]
    one_by_one = ["bytes=1000-1999", "bytes=300000-300999", "bytes=900000-900999"]
    assert asked[0] == "bytes=" + ",".join(text.removeprefix("bytes=") for text in one_by_one)
    assert asked[1:] == (one_by_one if multi == "whole" else one_by_one[1:])


def test_server_without_ranges_still_serves() -> None:
    """Where one range is answered with the whole file, too, it is taken as it is."""
    with LyingServer(BODY, lambda _n: Lie(ignore_range=True)) as server:
        assert read([server.url + "/p"], SPANS) == WANTED
        assert len(server.requests) == 2


@pytest.mark.parametrize("coding", ["x-gzip", "gzip", "aws-chunked", "br", "identity"])
def test_label_of_an_encoding_refuses_no_right_bytes(coding: str) -> None:
    """A Content-Encoding over the right bytes, whole or in ranges, says nothing."""
    with LyingServer(BODY, lambda _n: Lie(headers={"Content-Encoding": coding})) as server:
        assert read([server.url + "/p"], [Span(0)]) == BODY
        assert read([server.url + "/p"], SPANS[:1]) == WANTED[:1000]


def to(url: str) -> Lie:
    return Lie(status=302, headers={"Location": url}, body=b"")


@pytest.mark.parametrize("where", ["/cdn/p", "{url}/cdn/p", "//{host}/cdn/p"])
def test_redirect_on_the_same_host_is_followed(where: str) -> None:
    """A redirect to another path of a host, told in whatever way, is followed with the ranges that were asked for."""

    def lie(number: int) -> Lie:
        host = server.url.removeprefix("http://")
        return to(where.format(url=server.url, host=host)) if number % 2 == 0 else Lie()

    with LyingServer(BODY, lie) as server:
        assert read([server.url + "/p"], SPANS) == WANTED
        assert [path for path, _ in server.requests] == ["/p", "/cdn/p"]


def test_redirect_within_https_is_followed(authority: Authority) -> None:
    """Over https a redirect may lead to another host, query and all."""
    pair = authority.issue("server")
    with LyingServer(BODY, pair=pair) as store, LyingServer(BODY, lambda _n: to(store.url + "/p?sig=x"), pair) as front:
        assert read([front.url + "/p"], [Span(0)], ca_file=authority.ca) == BODY
        assert [path for path, _ in store.requests] == ["/p?sig=x"]


def test_password_stays_with_the_named_hosts_behind_a_redirect(authority: Authority) -> None:
    """A redirect gets the downloads' user and password only if the settings name the host that it leads to."""
    pair = authority.issue("server")
    credentials = Credentials("fleet", "hush", frozenset({"another.example"}))
    with LyingServer(BODY, pair=pair) as store, LyingServer(BODY, lambda _n: to(store.url + "/p"), pair) as front:
        with make_http(timeout_secs=20, ca_file=authority.ca, credentials=credentials) as http:
            assert b"".join(HttpSource([front.url + "/p"], http=http, expected_size=len(BODY)).read([Span(0)])) == BODY
        assert all("Authorization" not in headers for headers in (*store.headers, *front.headers))


@pytest.mark.parametrize("also_http", [False, True])
def test_redirect_to_http_needs_a_setting(authority: Authority, also_http: bool) -> None:
    """From https to http, and over http to another host, a redirect is followed only where the settings allow it."""
    pair = authority.issue("server")
    with (
        LyingServer(BODY) as store,
        LyingServer(BODY, lambda _n: to(store.url + "/p"), pair=pair) as safe,
        LyingServer(BODY, lambda _n: to(store.url + "/p")) as plain,
    ):
        for front in (safe, plain):
            effort = Effort(also_http=also_http)
            if also_http:
                assert read([front.url + "/p"], [Span(0)], effort, authority.ca) == BODY
                continue
            with pytest.raises(RemoteError) as caught:
                read([front.url + "/p"], [Span(0)], effort, authority.ca)
            assert caught.value.code is ErrorCode.HTTP_REDIRECT
        assert len(store.requests) == 2 * also_http


@pytest.mark.parametrize(
    "where", ["file:///etc/shadow", "ftp://x/", "https://u:p@x/", "", "http://x y/", "/" + "a" * 9000]
)
def test_redirect_that_leads_nowhere_is_refused(where: str) -> None:
    """A redirect to another scheme, to a URL with a password or without any Location is an error of its own."""
    with LyingServer(BODY, lambda _n: to(where)) as server, pytest.raises(RemoteError) as caught:
        read([server.url + "/p"], [Span(0)])
    assert caught.value.code is ErrorCode.HTTP_REDIRECT
    assert "u:p" not in caught.value.message
    assert len(caught.value.message) <= 1000


def test_redirects_without_end_are_left() -> None:
    """A loop of redirects is left after five."""
    with LyingServer(BODY, lambda _n: to("/p")) as server:
        with pytest.raises(RemoteError) as caught:
            read([server.url + "/p"], [Span(0)])
        assert len(server.requests) == MOST_REDIRECTS + 1
    assert caught.value.code is ErrorCode.HTTP_REDIRECT


class Hand:
    """A clock that the reader of a download moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_slow_mirror_leaves_time_for_a_good_one() -> None:
    """A mirror that uses up its share of the deadline is left for the next, which goes on where it was."""
    clock = Hand()
    limits = FetchLimits(deadline_secs=60.0, min_bytes_per_sec=0, window_secs=1000.0)
    effort, got = Effort(limits, monotonic=clock.monotonic), bytearray()
    with LyingServer(BODY) as slow, LyingServer(BODY) as good, make_http(timeout_secs=20) as http:
        source = HttpSource([slow.url + "/p", good.url + "/p"], http=http, expected_size=len(BODY), effort=effort)
        for piece in source.read([Span(0)]):
            got += piece
            clock.now += 0.0 if good.requests else 16.0  # two pieces are its share of the minute
        assert (len(slow.requests), len(good.requests)) == (1, 1)
        assert good.requests[0][1] is not None, "the good one began anew"
    assert got == BODY
