"""What an install's downloads share: mirrors that failed, signs of life, one deadline, an end when it is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.support.loopback_http import LoopbackHttp, QuietHandler
from tests.support.lying_server import Lie, LyingServer
from tests.support.moving_clock import MovingClock
from updated.agent.install_work import InstallWork
from updated.errors import ErrorCode, RemoteError, UpdateError
from updated.install import pace
from updated.install.effort import FAILING_TRIES, Effort
from updated.install.fetch import HttpSource, make_http
from updated.install.pace import FetchLimits
from updated.install.ranges import Span

BODY = bytes(range(256)) * 400
TRIES = 5
LIMITS = FetchLimits(failures_per_url=TRIES)


def fetch(effort: Effort, *urls: str, timeout_secs: float = 30.0) -> bytes:
    with make_http(timeout_secs=timeout_secs) as http:
        return b"".join(HttpSource(urls, http=http, expected_size=len(BODY), effort=effort).read([Span(0)]))


def failing(code: ErrorCode, effort: Effort, *urls: str) -> None:
    with pytest.raises(UpdateError) as caught:
        fetch(effort, *urls)
    assert caught.value.code is code
    assert caught.value.hint


def down(_number: int) -> Lie:
    return Lie(status=503)


def test_mirror_that_failed_is_asked_last() -> None:
    """A mirror that used up its tries isn't waited for again: neither by another read nor for a file beside."""
    effort = Effort(LIMITS)
    with LyingServer(BODY, down) as bad, LyingServer(BODY) as good:
        for name in ("payload", "payload", "index"):
            assert fetch(effort, f"{bad.url}/a/{name}", f"{good.url}/b/{name}") == BODY
        assert (len(bad.requests), len(good.requests)) == (TRIES, 3)


def test_mirror_that_failed_has_few_tries_until_it_sends_something() -> None:
    """Where there is no other mirror, one that failed is tried less often; once bytes come, as often as before."""
    effort = Effort(LIMITS)
    up = TRIES + FAILING_TRIES
    with LyingServer(BODY, lambda n: Lie() if n == up else Lie(status=503)) as server:
        failing(ErrorCode.HTTP_STATUS, effort, server.url)
        assert len(server.requests) == TRIES
        failing(ErrorCode.HTTP_STATUS, effort, server.url)
        assert len(server.requests) == TRIES + FAILING_TRIES
        assert fetch(effort, server.url) == BODY
        failing(ErrorCode.HTTP_STATUS, effort, server.url)
        assert len(server.requests) == up + 1 + TRIES


def test_file_that_a_mirror_lacks_says_nothing_of_the_mirror() -> None:
    """After a 404 for one file a mirror is still the first that others are asked of."""
    effort = Effort(LIMITS)
    with LyingServer(BODY, lambda n: Lie(status=404) if n == 0 else Lie()) as first, LyingServer(BODY) as second:
        for _ in range(2):
            assert fetch(effort, first.url, second.url) == BODY
        assert (len(first.requests), len(second.requests)) == (2, 1)


def test_long_pauses_have_signs_of_life() -> None:
    """Before each try and each part of a pause there is a sign of life, and no part is longer than one may wait."""
    seen: list[float] = []  # 0 for a sign of life
    effort = Effort(FetchLimits(failures_per_url=7), pause=seen.append, alive=lambda: seen.append(0))
    with LyingServer(BODY, down) as server:
        failing(ErrorCode.HTTP_STATUS, effort, server.url)
    assert sum(seen) == 1 + 2 + 5 + 10 + 20 + 20
    assert max(seen) <= pace.SLICE_SECS
    assert all(before == 0 for before, secs in pairwise(seen) if secs)
    assert seen.count(0) > len(server.requests) + sum(secs > 0 for secs in seen)


def test_pause_that_is_cancelled_ends_the_download() -> None:
    """A pause that says so is the last: nothing is asked again, of no mirror."""
    with LyingServer(BODY, down) as server, LyingServer(BODY) as other:
        failing(ErrorCode.CANCELLED, Effort(LIMITS, pause=lambda _secs: True), server.url, other.url)
        assert (len(server.requests), len(other.requests)) == (1, 0)


def cancel_when(done: Callable[[], bool]) -> Callable[[], None]:
    def alive() -> None:
        if done():
            raise UpdateError(ErrorCode.CANCELLED, "enough", hint="Go on another day.")

    return alive


def test_cancelled_download_tries_no_more() -> None:
    """Whether to go on is looked at before each try."""
    with LyingServer(BODY, down) as server:
        failing(ErrorCode.CANCELLED, Effort(LIMITS, alive=cancel_when(lambda: bool(server.requests))), server.url)
        assert len(server.requests) == 1


class Dripping(LoopbackHttp):
    """Sends the beginning of an answer, then a little more, or nothing, each time that it is let; else it ends."""

    def __init__(self, begin: bytes, more: bytes) -> None:
        self.let, self.ended = threading.Semaphore(0), False
        outer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802  http.server looks it up by this name
                self.close_connection = True
                try:
                    self.wfile.write(begin)
                    while outer.let.acquire(timeout=20):
                        self.wfile.write(more)
                    outer.ended = True
                except OSError:
                    pass  # it was left

        super().__init__(Handler)


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"HTTP/1.1 200 OK\r\nX: ", b"a"), (b"", b"HTTP/1.1 102 Processing\r\n\r\n"), (b"HTTP/1.1 200 OK\r\n", b"")],
)
@pytest.mark.parametrize(
    "limits", [FetchLimits(deadline_secs=50, min_bytes_per_sec=0), FetchLimits(deadline_secs=1e9, window_secs=50)]
)
def test_head_without_end_is_given_up(
    begin: bytes, more: bytes, limits: FetchLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that drips, interim answers that never end and silence run into the limits as a dripping body does."""
    monkeypatch.setattr(pace, "SLICE_SECS", 0.01)
    clock = MovingClock()
    with Dripping(begin, more) as server:

        def alive() -> None:
            clock.advance(1)
            server.let.release()

        failing(ErrorCode.DOWNLOAD_TOO_SLOW, Effort(limits, monotonic=clock.monotonic, alive=alive), server.url)
        assert not server.ended  # it was left


def test_silent_mirror_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that waits for an answer which doesn't come ends soon after it was cancelled, before any time-out."""
    monkeypatch.setattr(pace, "SLICE_SECS", 0.01)
    looks = iter(range(20))
    with Dripping(b"", b"") as server:
        with pytest.raises(UpdateError) as caught:
            fetch(Effort(LIMITS, alive=cancel_when(lambda: next(looks, None) is None)), server.url, timeout_secs=3600)
        assert (caught.value.code, server.ended) == (ErrorCode.CANCELLED, False)


class Timed(httpx.SyncByteStream):
    """A body that comes at a rate, by a test's clock."""

    def __init__(self, clock: MovingClock, per_sec: int, length: int) -> None:
        self._clock, self._per_sec, self._length = clock, per_sec, length

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(0, self._length, self._per_sec):
            self._clock.advance(1)
            yield bytes(self._per_sec)


def by_transport(answer: Callable[[httpx.Request], httpx.Response], effort: Effort, size: int, *spans: Span) -> bytes:
    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        return b"".join(HttpSource(["http://h/x"], http=http, expected_size=size, effort=effort).read(spans))


def last_byte(per_sec: int, length: int, alive: Callable[[], object] | None = None) -> bytes:
    """Fetch the last byte from a server that can't send ranges."""
    clock = MovingClock()
    effort = Effort(FetchLimits(failures_per_url=1), monotonic=clock.monotonic, alive=alive)

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Length": str(length)}, stream=Timed(clock, per_sec, length))

    return by_transport(answer, effort, length, Span(length - 1))


def test_unwanted_bytes_that_drip_are_given_up() -> None:
    """The lowest rate holds for what comes before the first wanted byte too."""
    with pytest.raises(RemoteError) as caught:
        last_byte(10, 5000)
    assert caught.value.code is ErrorCode.DOWNLOAD_TOO_SLOW


def test_unwanted_bytes_are_progress() -> None:
    """A long way to the first wanted byte isn't slow, and has its signs of life."""
    signs: list[None] = []
    assert last_byte(2000, 1_000_000, lambda: signs.append(None)) == b"\0"
    assert len(signs) >= 500


def test_parts_that_drip_are_given_up() -> None:
    """The lowest rate holds for parts that nobody asked for too."""
    clock, size = MovingClock(), 700_000
    head = b"--limit\r\nContent-Range: bytes 0-699999/700000\r\n\r\n"

    def drip() -> Iterator[bytes]:
        yield head
        yield from Timed(clock, 10, size)

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(206, headers={"Content-Type": "multipart/byteranges; boundary=limit"}, content=drip())

    effort = Effort(FetchLimits(failures_per_url=1), monotonic=clock.monotonic)
    with pytest.raises(RemoteError) as caught:
        by_transport(answer, effort, size, Span(500_000, 500_001), Span(600_000, 600_001))
    assert caught.value.code is ErrorCode.DOWNLOAD_TOO_SLOW


def test_outage_is_not_a_slow_download() -> None:
    """Tries that came to nothing don't count against the lowest rate of the one that does."""
    clock, size, failures = MovingClock(), 500_000, iter(range(4))

    def answer(_request: httpx.Request) -> httpx.Response:
        if next(failures, None) is not None:
            clock.advance(30)
            raise httpx.ReadTimeout("silence")
        return httpx.Response(200, headers={"Content-Length": str(size)}, stream=Timed(clock, 2000, size))

    assert by_transport(answer, Effort(LIMITS, monotonic=clock.monotonic), size, Span(0)) == bytes(size)


def test_own_limit_is_not_the_servers_fault() -> None:
    """The pauses that a limit asks for don't count against the lowest rate, however large the pieces are."""
    clock, size = MovingClock(), 4_000_000
    limits = FetchLimits(min_bytes_per_sec=1024, max_bytes_per_sec=1025, deadline_secs=1e9)
    effort = Effort(limits, monotonic=clock.monotonic, pause=clock.advance)

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Length": str(size)}, stream=Timed(clock, size // 8, size))

    assert by_transport(answer, effort, size, Span(0)) == bytes(size)
    assert clock.monotonic() == pytest.approx(size / 1025, rel=0.01)


def test_one_deadline_for_all_sources() -> None:
    """What one file took is lacking to the next: the limit is the whole download's."""
    clock = MovingClock()
    effort = Effort(FetchLimits(deadline_secs=100), monotonic=clock.monotonic)
    with LyingServer(BODY) as server:
        assert fetch(effort, server.url) == BODY
        clock.advance(101)
        failing(ErrorCode.DOWNLOAD_TOO_SLOW, effort, server.url)
        assert len(server.requests) == 1


def test_download_feeds_the_watchdog_until_it_is_cancelled(tmp_path: Path) -> None:
    """The agent's pulse rises with the signs of life, once a second at most; a cancelled install is ended by them."""
    clock = MovingClock()
    means = SimpleNamespace(settings=SimpleNamespace(state_dir=tmp_path), clock=clock)
    context: Any = SimpleNamespace(means=means, pulse=0)
    context.beat = lambda: setattr(context, "pulse", context.pulse + 1)
    loop: Any = SimpleNamespace(call_soon_threadsafe=lambda callback: callback())
    work = InstallWork(context)
    alive = work._pulse(loop)
    for _ in range(3):
        alive()
        alive()
        clock.advance(1)
    assert context.pulse == 3
    work._cancelled.set()
    with pytest.raises(UpdateError) as caught:
        alive()
    assert caught.value.code is ErrorCode.CANCELLED
