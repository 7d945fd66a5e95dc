"""Carries out what is to be done for a partition: from the payload's stream, or put together from what is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from updated.common.log import get_logger
from updated.errors import LocalError, UpdateError
from updated.install.crew import Crew
from updated.install.operations import Readable, Writable, carry_out, write_extents
from updated.install.ranges import Spans
from updated.install.reuse import Finder, Run
from updated.install.stream import Metadata, PayloadReader
from updated.install.todo import PartTodos, Todo, Todos
from updated.payload.index import chunk_digest
from updated.payload.manifest import ZEROES, Manifest

Phase = Literal["downloading", "verifying", "finalizing"]
STEPS = 256  # how often progress is told at most, in a phase
SMALLEST_STEP = 64 * 1024  # bytes
HELD_BYTES = 1024  # of an operation that waits, beside what it reads and makes

log = get_logger("install")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an install is; bytes of the release's files, or read back in the phase `verifying`.

    `bytes_done` were fetched, `bytes_reused` need not be: together they come to `bytes_total` in the end.
    """

    phase: Phase
    bytes_done: int
    bytes_total: int
    bytes_reused: int = 0


class Meter:
    """Tells how far a phase is, not too often."""

    def __init__(self, phase: Phase, total: int, observe: Callable[[Progress], None]) -> None:
        self._phase, self._total, self._observe = phase, total, observe
        self._told = 0
        self._here = 0
        self.done = self.reused = 0
        observe(Progress(phase, 0, total))

    def add(self, count: int) -> None:
        """Count bytes that were fetched or read."""
        here = min(count, self._here)
        self._here -= here
        self.reused += here
        self.done += count - here
        self._tell_now_and_then()

    def expect_here(self, count: int) -> None:
        """Take in that of the bytes which come next so many are on this host, and need not be fetched."""
        self._here = count

    def reuse(self, count: int) -> None:
        """Count bytes that need not be fetched; negative: they have to be after all."""
        self.reused += count
        self._tell_now_and_then()

    def _tell_now_and_then(self) -> None:
        if self.done + self.reused - self._told >= max(SMALLEST_STEP, self._total // STEPS):
            self.tell()

    def tell(self) -> None:
        """Tell how far it is now."""
        self._told = self.done + self.reused
        self._observe(Progress(self._phase, self.done, max(self._total, self._told), self.reused))


def fetch_spans(todos: Iterable[Todo], metadata: Metadata) -> Spans:
    """Return which bytes of the payload the operations need, neighbours joined."""
    spans = Spans()
    for todo in todos:
        if todo.chunk is not None or not todo.op.data_length:
            continue
        begin = metadata.data_start + todo.op.data_offset
        spans.append(begin, begin + todo.op.data_length)
    return spans


@dataclass(slots=True)
class Carrier:
    """Where operations read and write."""

    manifest: Manifest
    slot: str  # the name of the partition that goes into the slot
    crew: Crew
    files: Mapping[str, Writable]  # the other partitions' places
    running: Readable | None
    target: Readable  # the slot as a seed: it is read before anything behind it is written
    finder: Finder | None = None
    missed: list[int] = field(default_factory=list)  # the slot's operations that came out differently: to be fetched

    def carry(self, todos: Iterable[Todo], reader: PayloadReader, meter: Meter, save: Callable[[bool], None]) -> None:
        """Carry everything out, in order; `save` is called as more of it is done, with whether it is the last time.

        Raises:
            UpdateError: the first that went wrong.
        """
        try:
            for todo in todos:
                self._carry_one(todo, reader, meter)
                save(False)
            self.crew.finish()
        except UpdateError:
            self._keep_what_came(save)
            raise
        save(True)
        meter.tell()

    def _carry_one(self, todo: Todo, reader: PayloadReader, meter: Meter) -> None:
        if todo.chunk is not None and self.finder is not None:
            self._put_together(todo, todo.chunk, self.finder)
            meter.reuse(todo.op.data_length)
        else:
            data = reader.take(todo.op.data_length)
            meter.add(todo.op.data_length)
            self._perform(todo, data)

    def _keep_what_came(self, save: Callable[[bool], None]) -> None:
        """Write what has come, so that the next try needn't fetch it again."""
        try:
            self.crew.finish()
            save(True)
        except UpdateError as error:  # not the first one, which is what is reported
            log.info("not-kept", code=error.name, message=error.message)

    def take_missed(self, meter: Meter) -> Todos:
        """Return the chunks that came out differently, to be fetched, and forget them."""
        missed, self.missed = sorted(self.missed), []
        root = next(part for part in self.manifest.partitions if part.name == self.slot)
        meter.reuse(-sum(root.operations[number].data_length for number in missed))
        return Todos((PartTodos(root, missed),))

    def _perform(self, todo: Todo, data: memoryview) -> None:
        op, running, block_size = todo.op, self.running, self.manifest.block_size
        if todo.target == self.slot:
            cost = HELD_BYTES + op.data_length + op.src_length + (0 if op.type in ZEROES else op.dst_length)
            self.crew.add(lambda to: carry_out(op, data, target=to, running=running, block_size=block_size), cost)
        elif todo.target in self.files:
            carry_out(op, data, target=self.files[todo.target], running=running, block_size=block_size)

    def _put_together(self, todo: Todo, chunk: int, finder: Finder) -> None:
        """Read now what of the target is about to be overwritten, the rest when it is this one's turn.

        A seed that can't be read is no reason to fail: the chunk is fetched like one that comes out differently.
        """
        try:
            ready = [run.read() if run.seed is self.target else run for run in finder.runs(chunk)]
        except LocalError as error:
            self._miss(todo, error.message)
            return

        def work(to: Writable) -> None:
            try:
                pieces = [part.read() if isinstance(part, Run) else part for part in ready]
            except LocalError as error:
                self._miss(todo, error.message)
                return
            content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if chunk_digest(content) == finder.digest(chunk):
                write_extents(todo.op.dst_extents, memoryview(content), to, self.manifest.block_size)
            else:
                self._miss(todo, "it came out differently")

        self.crew.add(work, todo.op.dst_length)

    def _miss(self, todo: Todo, why: str) -> None:
        log.info("chunk-missed", offset=todo.op.data_offset, bytes=todo.op.data_length, why=why, now="it is fetched")
        self.missed.append(todo.number)  # from any thread, in any order: they are sorted before they are fetched
