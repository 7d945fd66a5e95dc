"""What a new image may be put together from: the slots that the host has, looked through or read here and there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from updated.install.medium import aligned_buffer
from updated.install.operations import Readable

PIECE = 2 * 1024 * 1024  # bytes of a seed read at once: several chunks, for one that goes beyond isn't tried whole
ZERO_PIECE = bytes(PIECE)
LOOKERS = 2  # while one waits for the medium or hashes, the other looks up


class Seed(Readable, Protocol):
    """Something to find blocks in; `size` in bytes."""

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        ...

    def read_back(self, offset: int, into: memoryview) -> None:
        """Fill an aligned buffer."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring bytes of a seed; no seed: zeros."""

    seed: Seed | None
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            LocalError: READ_BACK.
        """
        return bytes(self.length) if self.seed is None else self.seed.read(self.offset, self.length)


def look_through(seed: Seed, look: Callable[[int, memoryview], None], going_on: Callable[[], None]) -> None:
    """Show a seed's pieces and their offsets to `look`, in two threads, in any order, holes left out.

    Args:
        seed: what to read.
        look: called with a piece that is valid until it returns.
        going_on: called at each piece, in this thread.

    Raises:
        LocalError: READ_BACK; what `going_on` raises.
    """
    buffers: SimpleQueue[memoryview] = SimpleQueue()
    for _ in range(LOOKERS):
        buffers.put(aligned_buffer(PIECE))

    def take(at: int) -> None:
        buffer = buffers.get()
        try:
            piece = buffer[: min(PIECE, seed.size - at)]
            seed.read_back(at, piece)  # past the page cache: nobody will want all of it again soon
            if piece[0] or piece[-1] or bytes(piece) != ZERO_PIECE[: len(piece)]:  # zeros are wanted from nobody
                look(at, piece)
        finally:
            buffers.put(buffer)

    with ThreadPoolExecutor(LOOKERS, thread_name_prefix="look-through") as pool:
        coming: deque[Future[None]] = deque()  # few: each costs some KiB, and a large seed has thousands of pieces
        try:
            for at in range(0, seed.size, PIECE):
                going_on()
                coming.append(pool.submit(take, at))
                if len(coming) > 2 * LOOKERS:
                    coming.popleft().result()
            while coming:
                coming.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
