"""Downloads from servers that cut, lie, drip or redirect, over real HTTP."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.lying_server import Lie, LyingServer
from updated.errors import ErrorCode, RemoteError
from updated.install.fetch import FetchLimits, HttpSource, make_http

BODY = os.urandom(700_000)
FEW = FetchLimits(failures_per_url=3)


def fetch(*urls: str, size: int | None = len(BODY), start: int = 0, limits: FetchLimits = FEW) -> bytes:
    with make_http(timeout_secs=10) as http:
        return b"".join(HttpSource(urls, http=http, expected_size=size, limits=limits).read_from(start))


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
        wanted = [f"bytes={position}-" if position else None for position in positions if position < len(BODY)]
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
        assert good.requests == [("/y", "bytes=1000-")]
        assert len(bad.requests) == 1 + FEW.failures_per_url - 1


def test_permanent_error_leaves_a_url_at_once() -> None:
    """A 404 isn't asked again."""
    with LyingServer(BODY, lambda _n: Lie(status=404)) as bad, LyingServer(BODY) as good:
        assert fetch(bad.url + "/x", good.url + "/y") == BODY
        assert len(bad.requests) == 1


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
        source = HttpSource([server.url + "/x"], http=http, expected_size=len(BODY), limits=limits, monotonic=clock)
        with pytest.raises(RemoteError) as caught:
            list(source.read_from(0))
    assert caught.value.code is ErrorCode.DOWNLOAD_TOO_SLOW


def test_password_is_never_sent_in_the_clear() -> None:
    """User and password go to https only."""
    with LyingServer(BODY) as server, make_http(credentials=("user", "secret")) as http:
        b"".join(HttpSource([server.url + "/x"], http=http, expected_size=len(BODY)).read_from(0))
        assert not any(name.lower() == "authorization" for name in server.headers[0])


def test_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a configured proxy is used."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with LyingServer(BODY) as server:
        assert fetch(server.url + "/x") == BODY
