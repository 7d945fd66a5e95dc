"""Reads a slot back from the medium and compares it with what was signed: behind the writers, while they go on.

Hashing an image takes a core for as long as writing it does. What nothing will be written to any more can be flushed,
read and hashed early; only the end of it is left when the last write is done.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from hashlib import sha256
from threading import Event
from types import TracebackType
from typing import Self

from updated.errors import ErrorCode, RefusedError
from updated.install.carry import Meter
from updated.install.medium import ALIGNMENT, Target, aligned_buffer
from updated.install.todo import Todos
from updated.payload.manifest import Image

PIECE = 2 * 1024 * 1024  # bytes read at once
TELL_SECS = 0.2
UNBOUNDED = 1 << 63
STRETCH = 32 * 1024 * 1024  # bytes for which a flush in between is worth it; about so much is left for the end


def settled_ends(todos: Todos, slot: str, block_size: int) -> Callable[[int], int]:
    """Return what tells, of how many of these are done in order, how many bytes from the slot's beginning are final.

    That is the first byte that any later one writes; behind the last one there is none, and it is unbounded.
    """
    todo = next(part for part in todos.parts if part.partition.name == slot)
    operations, numbers = todo.partition.operations, todo.numbers

    def first(number: int) -> int:
        return min(UNBOUNDED, min(extent.start_block for extent in operations[number].dst_extents) * block_size)

    if todo.partition.ascending:
        return lambda done: first(numbers[done]) if done < len(numbers) else UNBOUNDED
    ends = array("Q", [UNBOUNDED])
    for number in reversed(numbers):
        ends.append(min(ends[-1], first(number)))
    ends.reverse()
    return ends.__getitem__


class ReadBack:
    """The reader behind the writers; use it as a context, so that it ends with them."""

    def __init__(self, target: Target, wanted: Image) -> None:
        """Begin nothing yet: `advance` tells how far the slot is final."""
        self._target, self._wanted = target, wanted
        self._hash = sha256()
        self._buffer = aligned_buffer(PIECE)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-back")
        self._stopped = Event()
        self._stretch: Future[None] | None = None
        self._asked = self._read_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def advance(self, end: int) -> None:
        """Take in that nothing is written before `end` any more, and read on if it is worth it.

        Raises:
            LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK: what was read in the meantime couldn't be.
        """
        end = min(end, self._wanted.size) // PIECE * PIECE
        if end - self._asked >= STRETCH and (self._stretch is None or self._stretch.done()):
            self._begin(end)

    def finish(self, meter: Meter) -> None:
        """Read the rest and compare.

        Raises:
            RefusedError: PARTITION_HASH_MISMATCH.
            LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK.
        """
        stretch = self._begin(self._wanted.size)
        while not stretch.done():
            meter.add(self._read_bytes - meter.done)
            wait([stretch], TELL_SECS)
        stretch.result()
        meter.add(self._read_bytes - meter.done)
        if self._hash.digest() != self._wanted.sha256:
            raise RefusedError(
                ErrorCode.PARTITION_HASH_MISMATCH,
                f"what {self._target.name} holds is not what was signed",
                hint="If the payload installs elsewhere, this medium is failing: see `dmesg` and `smartctl`.",
            )

    def _begin(self, end: int) -> Future[None]:
        if self._stretch is not None:
            self._stretch.result()
        begin, self._asked = self._asked, end
        self._stretch = self._pool.submit(self._read, begin, end)
        return self._stretch

    def _read(self, begin: int, end: int) -> None:
        """Flush, and hash what the medium gives back."""
        self._target.flush()
        self._target.drop_cache()
        for at in range(begin, end, PIECE):
            if self._stopped.is_set():
                return
            length = min(PIECE, end - at)
            into = self._buffer[: min(-(-length // ALIGNMENT) * ALIGNMENT, self._target.size - at)]
            self._target.read_back(at, into)
            self._hash.update(into[:length])
            self._read_bytes += length
