"""Downloads from servers that cut, lie, drip or redirect, over real HTTP."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.lying_server import Lie, LyingServer
from tests.support.moving_clock import MovingClock
from updated.errors import ErrorCode, RemoteError, Retry
from updated.install.effort import Effort
from updated.install.fetch import MOST_REQUESTS, Credentials, HttpSource, make_http
from updated.install.pace import FetchLimits
from updated.install.ranges import Span

BODY = os.urandom(700_000)
FEW = FetchLimits(failures_per_url=3)


def fetch(*urls: str, size: int | None = len(BODY), start: int = 0, limits: FetchLimits = FEW) -> bytes:
    with make_http(timeout_secs=10) as http:
        return b"".join(HttpSource(urls, http=http, expected_size=size, effort=Effort(limits)).read([Span(start)]))


def failing(code: ErrorCode, *urls: str, **more: int) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        fetch(*urls, **more)  # type: ignore[arg-type]
    assert caught.value.code is code
    assert caught.value.hint
    return caught.value


def test_whole_download() -> None:
    """The bytes of an honest server arrive, asked for without compression."""
    with LyingServer(BODY) as server:
        assert fetch(server.url + "/x") == BODY
        assert server.requests == [("/x", None)]
        assert server.headers[0]["Accept-Encoding"] == "identity"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 300_000), min_size=1, max_size=4))
def test_cut_download_is_resumed_at_the_byte(cuts: list[int]) -> None:
    """A connection cut at any byte is resumed there; no byte is fetched twice or lost."""
    with LyingServer(BODY, lambda n: Lie(cut_after=max(cuts[n], 1)) if n < len(cuts) else Lie()) as server:
        assert fetch(server.url + "/x") == BODY
        positions = [sum(max(cut, 1) for cut in cuts[:count]) for count in range(len(cuts) + 1)]
        wanted = [
            f"bytes={position}-{len(BODY) - 1}" if position else None for position in positions if position < len(BODY)
        ]
        assert [asked for _, asked in server.requests] == wanted


def test_server_without_ranges_still_works() -> None:
    """After a cut, a server that ignores ranges sends all again, and what is there already is skipped."""
    cut, whole = Lie(cut_after=100_000, ignore_range=True), Lie(ignore_range=True)
    with LyingServer(BODY, lambda n: cut if n == 0 else whole) as server:
        assert fetch(server.url + "/x") == BODY


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (Lie(status=302, headers={"Location": "http://127.0.0.1:1/"}), ErrorCode.HTTP_REDIRECT),
        (Lie(status=404), ErrorCode.HTTP_STATUS),
        (Lie(status=503), ErrorCode.HTTP_STATUS),
        (Lie(status=206, headers={"Content-Range": "bytes 0-4/5"}), ErrorCode.PAYLOAD_SIZE_MISMATCH),
        (Lie(status=206, headers={"Content-Range": "bytes 5-699999/700000"}), ErrorCode.HTTP_RANGE),
        (Lie(status=206, headers={"Content-Range": "bytes */700000"}), ErrorCode.HTTP_RANGE),
        (Lie(headers={"Content-Encoding": "gzip"}, body=gzip.compress(BODY)), ErrorCode.HTTP_STATUS),
        (Lie(body=BODY + b"x"), ErrorCode.PAYLOAD_SIZE_MISMATCH),
        (Lie(body=BODY[:-1]), ErrorCode.PAYLOAD_SIZE_MISMATCH),
    ],
)
def test_lie_is_refused(lie: Lie, code: ErrorCode) -> None:
    """A redirect, an error, a range that wasn't asked for, compression, another size: each has its error."""
    with LyingServer(BODY, lambda _n: lie) as server:
        failing(code, server.url + "/x")


def test_range_that_was_not_asked_for_is_refused() -> None:
    """A 206 for other bytes than those asked for is an error, though its status is right."""
    with LyingServer(BODY, lambda _n: Lie(headers={"Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"})) as server:
        failing(ErrorCode.HTTP_RANGE, server.url + "/x", start=5)


def test_endless_body_is_cut_off() -> None:
    """A body without a length that goes on after the expected size is refused after one piece too many."""
    endless = Lie(headers={"Transfer-Encoding": "chunked"}, body=_chunked(b"y" * 2_000_000))
    with LyingServer(BODY, lambda _n: endless) as server:
        failing(ErrorCode.PAYLOAD_SIZE_MISMATCH, server.url + "/x")


def _chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n"


def test_next_url_takes_over_where_the_first_gave_up() -> None:
    """A mirror that keeps failing is left for the next one, which goes on at the same byte."""
    failing_mirror = LyingServer(BODY, lambda n: Lie(cut_after=1000) if n == 0 else Lie(status=500))
    with failing_mirror as bad, LyingServer(BODY) as good:
        assert fetch(bad.url + "/x", good.url + "/y") == BODY
        assert good.requests == [("/y", f"bytes=1000-{len(BODY) - 1}")]
        assert len(bad.requests) == 1 + FEW.failures_per_url - 1


def test_permanent_error_leaves_a_url_at_once() -> None:
    """A 404 isn't asked again."""
    with LyingServer(BODY, lambda _n: Lie(status=404)) as bad, LyingServer(BODY) as good:
        assert fetch(bad.url + "/x", good.url + "/y") == BODY
        assert len(bad.requests) == 1


@pytest.mark.parametrize("url", ["http://mirror.example:port/x", "https://a..b/x", "http://xn--/x"])
def test_url_that_is_none_is_left_for_the_next(url: str) -> None:
    """A URL that can't even be asked is an error of the download like any other, and no reason to ask it twice."""
    error = failing(ErrorCode.DOWNLOAD_TRANSFER, url)
    assert error.retry is Retry.OTHER_SOURCE
    with LyingServer(BODY) as good:
        assert fetch(url, good.url + "/y") == BODY


def test_dead_server_is_an_error() -> None:
    """Nobody listening is reported as such, after the tries."""
    with LyingServer(BODY) as server:
        url = server.url
    failing(ErrorCode.DOWNLOAD_TRANSFER, url + "/x")


class FakeTime:
    """A clock that moves at each look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(
    ("limits", "step"),
    [
        (FetchLimits(deadline_secs=100, min_bytes_per_sec=0), 60.0),
        (FetchLimits(deadline_secs=1e9, min_bytes_per_sec=1_000_000, window_secs=30), 20.0),
    ],
)
def test_slow_retrieval_is_given_up(limits: FetchLimits, step: float) -> None:
    """A server that drips, or a download past its deadline, is given up (a read timeout alone would wait forever)."""
    clock: Callable[[], float] = FakeTime(step)
    with LyingServer(BODY) as server, make_http() as http:
        source = HttpSource(
            [server.url + "/x"], http=http, expected_size=len(BODY), effort=Effort(limits, monotonic=clock)
        )
        with pytest.raises(RemoteError) as caught:
            list(source.read([Span(0)]))
    assert caught.value.code is ErrorCode.DOWNLOAD_TOO_SLOW


def test_a_slow_medium_is_not_the_servers_fault() -> None:
    """Time in which nobody takes what has come doesn't count against the lowest rate of a download."""
    clock = MovingClock()
    limits = FetchLimits(deadline_secs=1e9, min_bytes_per_sec=1_000_000, window_secs=30)
    with LyingServer(BODY) as server, make_http() as http:
        source = HttpSource(
            [server.url], http=http, expected_size=len(BODY), effort=Effort(limits, monotonic=clock.monotonic)
        )
        came = bytearray()
        for piece in source.read([Span(0)]):
            came += piece
            clock.advance(100)  # seconds, to write it
    assert came == BODY


CREDENTIALS = Credentials("user", "secret", frozenset({"127.0.0.1"}))


def test_password_is_never_sent_in_the_clear() -> None:
    """User and password go to https only."""
    with LyingServer(BODY) as server, make_http(credentials=CREDENTIALS) as http:
        b"".join(HttpSource([server.url + "/x"], http=http, expected_size=len(BODY)).read([Span(0)]))
        assert not any(name.lower() == "authorization" for name in server.headers[0])


def test_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a configured proxy is used."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with LyingServer(BODY) as server:
        assert fetch(server.url + "/x") == BODY


SCATTERED = [Span(at, at + 700) for at in range(1000, 630_000, 2100)]


def scattered(server: LyingServer, spans: list[Span] = SCATTERED) -> bytes:
    with make_http() as http:
        return b"".join(
            HttpSource([server.url + "/x"], http=http, expected_size=len(BODY), effort=Effort(FEW)).read(spans)
        )


def picked(spans: list[Span]) -> bytes:
    return b"".join(BODY[span.begin : span.end] for span in spans)


def test_many_ranges_come_in_few_requests() -> None:
    """Three hundred ranges are asked for in three requests, and nothing else is sent."""
    with LyingServer(BODY) as server:
        assert scattered(server) == picked(SCATTERED)
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "lie", [Lie(first_range_only=True), Lie(headers={"Content-Type": "multipart/byteranges; boundary=other"})]
)
def test_server_that_cannot_send_several_ranges(lie: Lie) -> None:
    """A server that sends the first of several ranges alone, or no right multipart, is asked for one at a time."""
    with LyingServer(BODY, lambda n: lie if n == 0 else Lie()) as server:
        assert scattered(server) == picked(SCATTERED)
        assert len(server.requests) <= MOST_REQUESTS + 1
        assert all("," not in (asked or "") for _, asked in server.requests[1:])


def test_several_ranges_of_a_server_without_ranges() -> None:
    """A server that sends the whole file instead is read once, from front to back."""
    with LyingServer(BODY, lambda _n: Lie(ignore_range=True)) as server:
        assert scattered(server) == picked(SCATTERED)
        assert len(server.requests) == 1


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 90_000), max_size=3), bounds=st.sets(st.integers(0, len(BODY)), max_size=60))
def test_ranges_survive_cuts(cuts: list[int], bounds: set[int]) -> None:
    """Whatever ranges are wanted and wherever connections are cut, exactly their bytes arrive."""
    edges = sorted(bounds)
    spans = [Span(*pair) for pair in zip(edges[::2], edges[1::2], strict=False)]
    with LyingServer(BODY, lambda n: Lie(cut_after=cuts[n]) if n < len(cuts) else Lie()) as server:
        assert scattered(server, spans) == picked(spans)


def test_parts_without_end_are_cut_off() -> None:
    """A multipart answer that goes on and on is given up, not read to its end."""
    part = b"--limit\r\nContent-Range: bytes 0-99999/700000\r\n\r\n" + BODY[:100_000] + b"\r\n"
    lie = Lie(body=part * 200, headers={"Content-Type": "multipart/byteranges; boundary=limit"})
    spans = [Span(0, 1000), Span(5000, 6000)]
    with LyingServer(BODY, lambda n: lie if n == 0 else Lie()) as server:
        assert scattered(server, spans) == picked(spans)


def test_bytes_that_the_file_does_not_have() -> None:
    """Asking for more than the server's file has is an error, never a wait."""
    with LyingServer(BODY[:10]) as server, make_http() as http:
        source = HttpSource([server.url + "/x"], http=http, expected_size=None, effort=Effort(FEW))
        with pytest.raises(RemoteError) as caught:
            list(source.read([Span(0, 24)]))
    assert caught.value.code in (ErrorCode.PAYLOAD_SIZE_MISMATCH, ErrorCode.HTTP_RANGE)


def test_bandwidth_limit_holds_back() -> None:
    """With a limit, pauses add up to the time that the bytes may take."""
    pauses: list[float] = []
    clock = FakeTime(0.0)

    def pause(secs: float) -> None:
        pauses.append(secs)
        clock.now += secs

    with LyingServer(BODY) as server, make_http() as http:
        limits = FetchLimits(max_bytes_per_sec=100_000)
        source = HttpSource(
            [server.url], http=http, expected_size=len(BODY), effort=Effort(limits, monotonic=clock, pause=pause)
        )
        assert b"".join(source.read([Span(0)])) == BODY
    assert clock.now == pytest.approx(len(BODY) / 100_000, abs=0.1)
