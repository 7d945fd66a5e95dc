"""Carries out what is to be done for a partition: from the payload's stream, or put together from what is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from updated.common.log import get_logger
from updated.errors import LocalError, UpdateError
from updated.install.crew import BUFFER_BYTES, Crew
from updated.install.files import Beside
from updated.install.operations import Readable, Writable, carry_out, write_extents
from updated.install.ranges import Spans
from updated.install.reuse import Finder
from updated.install.seeds import Run
from updated.install.stream import Metadata, PayloadReader
from updated.install.todo import PartTodos, Todo, Todos, as_data_come, in_order
from updated.payload.index import chunk_digest
from updated.payload.manifest import ZEROES, Manifest

Phase = Literal["downloading", "verifying", "finalizing"]
Given = memoryview | list[bytes | Run]  # an operation's data; or what a chunk is put together from
STEPS = 256  # how often progress is told at most, in a phase
SMALLEST_STEP = 64 * 1024  # bytes
BATCH_BYTES = 5 * BUFFER_BYTES // 4  # of data and content together: a batch that is worth handing over
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
        if not todo.needs_data:
            continue
        begin = metadata.data_start + todo.op.data_offset
        spans.append(begin, begin + todo.op.data_length)
    return spans


@dataclass(slots=True)
class _Batch:
    """Work on the slot for one worker, mostly neighbouring, each with the data that it needs."""

    parts: list[tuple[Todo, Given]] = field(default_factory=list)
    cost: int = 0  # bytes that it holds in memory, data and content together
    settles: int = 0  # how many of the slot's operations, from its first, are done when this and all before it are


@dataclass(slots=True)
class Carrier:
    """Where operations read and write."""

    manifest: Manifest
    slot: str  # the name of the partition that goes into the slot
    crew: Crew
    files: Mapping[str, Beside]  # the other partitions' places
    running: Readable | None
    target: Readable  # the slot as a seed: it is read before anything behind it is written
    finder: Finder | None = None
    missed: list[int] = field(default_factory=list)  # the slot's operations that came out differently: to be fetched
    _batch: _Batch = field(default_factory=_Batch)

    def carry(
        self,
        todos: Todos,
        reader: PayloadReader,
        meter: Meter,
        save: Callable[[bool], None],
        has: Callable[[int], bool] | None = None,
    ) -> None:
        """Carry everything out.

        Args:
            todos: what there is to do.
            reader: gives the data, in order.
            meter: told how far it is.
            save: called as more of it is done, with whether it is the last time.
            has: tells whether so many bytes can be read without a wait; None: all is done in order.

        Raises:
            UpdateError: the first that went wrong.
        """
        self._batch, before = _Batch(), self.crew.settled
        try:
            for part in todos.parts:
                for done, todo in self._steps(part, has):
                    self._take_in(todo, reader, meter)
                    if todo.target == self.slot:
                        self._batch.settles = before + done
                    if self._batch.cost >= BATCH_BYTES:
                        self._hand_over()
                        save(False)
                        reader.look()
            self._finish()
        except UpdateError:
            self._keep_what_came(save)
            raise
        save(True)
        meter.tell()

    def _steps(self, part: PartTodos, has: Callable[[int], bool] | None) -> Iterator[tuple[int, Todo]]:
        """Yield what is to be done; where some is put together from what is here, the line is not waited for."""
        partition = part.partition
        if has is None or self.finder is None or partition.name != self.slot or not partition.ascending:
            return in_order(part)
        return as_data_come(part, has)

    def _take_in(self, todo: Todo, reader: PayloadReader, meter: Meter) -> None:
        """Take what an operation needs, and put it into the batch; what goes into a file is done at once."""
        op, batch = todo.op, self._batch
        if todo.chunk is not None and self.finder is not None:
            meter.reuse(op.data_length)
            if (ready := self._made_ready(todo, todo.chunk, self.finder)) is not None:
                batch.parts.append((todo, ready))
                batch.cost += HELD_BYTES + op.dst_length
            return
        data = reader.take(op.data_length)
        meter.add(op.data_length)
        if todo.target == self.slot:
            batch.parts.append((todo, data))
            batch.cost += HELD_BYTES + op.data_length + op.src_length + (0 if op.type in ZEROES else op.dst_length)
        elif todo.target in self.files:
            file, size = self.files[todo.target], self.manifest.block_size
            carry_out(op, data, target=file.target, running=file.old, block_size=size)

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, _Batch()
        batch.parts.sort(key=lambda part: part[0].number)  # so that neighbours are written at once
        self.crew.add(lambda to: self._carry_out(batch.parts, to), batch.cost, batch.settles)

    def _finish(self) -> None:
        if self._batch.parts:
            self._hand_over()
        self.crew.finish()

    def _keep_what_came(self, save: Callable[[bool], None]) -> None:
        """Write what has come, so that the next try needn't fetch it again."""
        try:
            self._finish()
            save(True)
        except UpdateError as error:  # not the first one, which is what is reported
            log.info("not-kept", code=error.name, message=error.message)

    def take_missed(self, meter: Meter) -> Todos:
        """Return the chunks that came out differently, to be fetched, and forget them."""
        missed, self.missed = sorted(self.missed), []
        root = next(part for part in self.manifest.partitions if part.name == self.slot)
        meter.reuse(-sum(root.operations[number].data_length for number in missed))
        return Todos((PartTodos(root, missed),))

    def _made_ready(self, todo: Todo, chunk: int, finder: Finder) -> list[bytes | Run] | None:
        """Read now what of the target is about to be overwritten; the rest is read when it is this one's turn.

        A seed that can't be read is no reason to fail: the chunk is fetched like one that comes out differently.
        """
        try:
            return [run.read() if run.seed is self.target else run for run in finder.runs(chunk)]
        except LocalError as error:
            self._miss(todo, error.message)
            return None

    def _carry_out(self, parts: Iterable[tuple[Todo, Given]], to: Writable) -> None:
        """Do a batch; in a worker's thread."""
        running, size = self.running, self.manifest.block_size
        for todo, given in parts:
            if isinstance(given, list):
                self._put_together(todo, given, to)
            else:
                carry_out(todo.op, given, target=to, running=running, block_size=size)

    def _put_together(self, todo: Todo, ready: Sequence[bytes | Run], to: Writable) -> None:
        if todo.chunk is None or self.finder is None:
            raise AssertionError("only chunks that a finder knows are made ready")
        try:
            pieces = [part.read() if isinstance(part, Run) else part for part in ready]
        except LocalError as error:
            self._miss(todo, error.message)
            return
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if chunk_digest(content) == self.finder.digest(todo.chunk):
            write_extents(todo.op.dst_extents, memoryview(content), to, self.manifest.block_size)
        else:
            self._miss(todo, "it came out differently")

    def _miss(self, todo: Todo, why: str) -> None:
        log.info("chunk-missed", offset=todo.op.data_offset, bytes=todo.op.data_length, why=why, now="it is fetched")
        self.missed.append(todo.number)  # from any thread, in any order: they are sorted before they are fetched
