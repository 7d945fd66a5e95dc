"""Carries batches of operations out on both cores, in bounded memory; begun and settled in the order they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from updated.install.medium import Target, Writer, aligned_buffer
from updated.install.operations import Writable

WORKERS = 2
BUFFER_BYTES = 2 * 1024 * 1024  # one a worker: what it writes at once
IN_FLIGHT_BYTES = 8 * 1024 * 1024  # handed over and not done; one operation may be larger, alone

Batch = Callable[[Writable], None]


class Crew:
    """A pool of two; the first error counts, what was not begun by then isn't carried out.

    Decompressors, hashes and system calls let the interpreter lock go, so two threads use two cores.
    """

    def __init__(self, target: Target, *, one_by_one: bool) -> None:
        """Start.

        Args:
            target: the slot.
            one_by_one: each batch may read what the last one wrote (a delta that changes its partition in place).
        """
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="install")
        self._writers: SimpleQueue[Writer] = SimpleQueue()
        for _ in range(WORKERS):
            self._writers.put(Writer(target, aligned_buffer(BUFFER_BYTES)))
        self._one_by_one = one_by_one
        self._under_way: deque[tuple[Future[None], int, int]] = deque()  # with their bytes and what they settle
        self._bytes_under_way = 0
        self._unbroken = True
        self.settled = self.settled_bytes = 0  # operations that are done, and all before them; what was done for that

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, batch: Batch, cost: int, settles: int) -> None:
        """Hand a batch over, as soon as there is room for it.

        Args:
            batch: the work on the slot.
            cost: what it holds in memory, in bytes.
            settles: how many operations, from the first, are done when it and all that were handed over before it are.

        Raises:
            UpdateError: earlier work failed.
        """
        self._settle(max(0, IN_FLIGHT_BYTES - cost))
        self._under_way.append((self._pool.submit(self._carry_out, batch), cost, settles))
        self._bytes_under_way += cost
        if self._one_by_one:
            self.finish()

    def finish(self) -> None:
        """Wait until everything is done.

        Raises:
            UpdateError: work failed.
        """
        self._settle(0)

    def _settle(self, allowed: int) -> None:
        """Wait until no more than `allowed` bytes are under way."""
        while self._under_way and (self._bytes_under_way > allowed or self._under_way[0][0].done()):
            future, cost, settles = self._under_way.popleft()
            self._bytes_under_way -= cost
            self._unbroken = self._unbroken and future.exception() is None
            if self._unbroken:  # what is done behind a failure isn't settled: all before it must be, too
                self.settled = settles
                self.settled_bytes += cost
            future.result()

    def _carry_out(self, batch: Batch) -> None:
        writer = self._writers.get()
        try:
            batch(writer)
            writer.flush()
        finally:
            writer.forget()
            self._writers.put(writer)
