"""Fetching ahead: the same pieces, the same failure, in bounded memory, and an end that leaves nothing running."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from tests.support.processes import wait_for
from updated.errors import ErrorCode, RemoteError
from updated.install.ahead import AHEAD_BYTES, fetched_ahead

PIECE = memoryview(bytes(AHEAD_BYTES // 4))


def test_pieces_come_in_order() -> None:
    """What was fetched ahead is what would have been fetched."""
    pieces = [memoryview(bytes([number])) for number in range(200)]
    with fetched_ahead(iter(pieces)) as coming:
        assert list(coming) == pieces


def test_a_failure_comes_behind_what_came_before_it() -> None:
    """What arrived before a line broke is handed out, and then the failure as it was raised."""

    def broken() -> Iterator[memoryview]:
        yield PIECE
        raise RemoteError(ErrorCode.DOWNLOAD_TRANSFER, "it broke off", hint="Look at the network.")

    with fetched_ahead(broken()) as line:
        coming = iter(line)
        assert next(coming) is PIECE
        with pytest.raises(RemoteError, match="it broke off"):
            next(coming)


def test_no_more_is_fetched_than_there_is_room_for() -> None:
    """A slow writer doesn't fill the memory: with AHEAD_BYTES waiting the next piece isn't asked for."""
    asked, full = [0], threading.Event()

    def endless() -> Iterator[memoryview]:
        while True:
            asked[0] += 1
            if asked[0] == 4:
                full.set()
            yield PIECE

    with fetched_ahead(endless()) as line:
        coming = iter(line)
        assert full.wait(30)
        for _ in range(5):
            next(coming)
    assert asked[0] <= 4 + 5 + 1


def test_it_has_enough_when_there_is_room_for_no_more() -> None:
    """Who waits for an operation that is larger than what may wait would wait without end, or do all else first."""
    full = threading.Event()

    def endless() -> Iterator[memoryview]:
        for number in itertools.count(1):
            if number == 4:
                full.set()
            yield PIECE

    with fetched_ahead(endless()) as line:
        assert full.wait(30)
        wait_for(lambda: line.has(100 * AHEAD_BYTES) or None, "the line was full")
        for piece in itertools.islice(line, 5):
            assert piece is PIECE


def test_the_end_stops_the_fetching() -> None:
    """Who stops early leaves no thread that goes on reading."""

    def endless() -> Iterator[memoryview]:
        while True:
            yield PIECE

    before = threading.active_count()
    with fetched_ahead(endless()) as line:
        next(iter(line))
    assert threading.active_count() == before


def test_it_tells_how_much_has_come() -> None:
    """So many bytes can be taken without a wait as have come and weren't taken."""
    come = threading.Event()

    def two() -> Iterator[memoryview]:
        yield memoryview(b"ab")
        yield memoryview(b"cde")
        come.set()

    with fetched_ahead(two()) as line:
        assert come.wait(30)
        assert (line.has(0), line.has(5), line.has(6)) == (True, True, False)
        pieces = iter(line)
        next(pieces)
        assert (line.has(3), line.has(4)) == (True, False)
        assert list(pieces) == [b"cde"]
        assert not line.has(1)
