"""Fetches ahead of who carries out: the line is used also while there is enough to do without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Condition, Thread

AHEAD_BYTES = 6 * 1024 * 1024  # that have come and wait
PIECE_BYTES = 512  # that a piece takes beside its own: a plan may have ten thousands of small ones


class Line:
    """Pieces on their way from one thread to another; at most AHEAD_BYTES, or one that is larger."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._come: SimpleQueue[memoryview | Exception | None] = SimpleQueue()
        self._changed = Condition()
        self._waiting = 0  # bytes, with those that were taken last
        self._come_bytes = 0  # not taken yet
        self._ended = False

    def fill(self) -> None:
        """Fetch until everything is there, or nobody wants it any more."""
        try:
            for piece in map(_by_itself, self._pieces):
                with self._changed:
                    self._come_bytes += len(piece)
                    self._come.put(piece)
                    self._waiting += len(piece) + PIECE_BYTES
                    self._changed.wait_for(lambda: self._ended or self._waiting < AHEAD_BYTES)
                    if self._ended:
                        return
        except Exception as error:  # noqa: BLE001 - it is raised where the pieces are taken
            self._come.put(error)
        else:
            self._come.put(None)

    def has(self, length: int) -> bool:
        """Tell whether so many bytes can be taken without a wait, or none come before some are taken."""
        return self._come_bytes >= length or self._waiting >= AHEAD_BYTES

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the pieces; raise what fetching them raised."""
        while (piece := self._come.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            with self._changed:
                self._come_bytes -= len(piece)
            yield piece
            with self._changed:
                self._waiting -= len(piece) + PIECE_BYTES
                self._changed.notify()

    def end(self) -> None:
        """Let no more be fetched."""
        with self._changed:
            self._ended = True
            self._changed.notify()


def _by_itself(piece: memoryview) -> memoryview:
    """Return a piece that doesn't keep much more in memory than itself: what was read with it may not be wanted."""
    return piece if 2 * len(piece) >= memoryview(piece.obj).nbytes else memoryview(bytes(piece))


@contextmanager
def fetched_ahead(pieces: Iterator[memoryview]) -> Iterator[Line]:
    """Yield the same pieces as a line, which another thread fills as they come; whatever they raise comes too.

    The end waits for the piece that is under way, so nothing is read from the source afterwards.
    """
    line = Line(pieces)
    thread = Thread(target=line.fill, name="fetch-ahead", daemon=True)
    thread.start()
    try:
        yield line
    finally:
        line.end()
        thread.join()
