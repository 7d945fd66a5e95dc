"""Turns two images into the operations of a delta: copies, zeros, patches, and what is new; on all cores."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import zstandard

from updated.errors import ErrorCode, LocalError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.manifest import OpType
from updated.release.chunks import BLOCK, QUEUE
from updated.release.delta_plan import DeltaPlan, Piece, make_plan
from updated.release.patch import make_patch

LEVEL = 19  # of zstd, for what is new
QUICK_LEVEL = 3  # to tell whether a patch is worth comparing with that, which takes most of the time
CLEARLY = 0.7  # level 19 leaves more than that of what level 3 leaves
DENSE = 0.97  # what zstd leaves of data that are compressed already: a patch helps them only if they stayed the same
PROBES, PROBE_BYTES = 16, 32  # how many samples of dense data are looked for in the old ones


@dataclass(frozen=True, slots=True)
class Delta:
    """Operations in the order of what they write; their data lie in the spool, in this order, without gaps."""

    operations: tuple[pb.InstallOperation, ...]
    plan: DeltaPlan  # has sizes and hashes of both images
    data_end: int


@dataclass(frozen=True, slots=True)
class _Made:
    """A piece's data and how to read them; hashes of what it reads."""

    piece: Piece
    kind: OpType
    data: bytes = b""
    source_sha256: bytes = b""


def make_delta(old: Path, new: Path, spool: BinaryIO, *, jobs: int) -> Delta:
    """Write the data of a delta into the spool and return its operations; the same for any number of jobs.

    Each job holds one piece, about 1 MiB of the new image and a few of the old one, and what sorting those takes.

    Raises:
        OSError: an image can't be read or the spool written.
        LocalError: ERROR; a process that made a part of it was killed.
    """
    plan = make_plan(old, new)
    pieces = sorted((*plan.copies, *plan.zeros, *plan.changed), key=lambda piece: piece.new[0])
    zeros = {piece.new[0] for piece in plan.zeros}
    copies = {piece.new[0] for piece in plan.copies}
    tasks = [_Task(old, new, piece, zero=piece.new[0] in zeros, copy=piece.new[0] in copies) for piece in pieces]
    operations, offset = [], 0
    for made in _in_parallel(tasks, jobs):
        operations.append(_operation(made, offset))
        spool.write(made.data)
        offset += len(made.data)
    return Delta(tuple(operations), plan, offset)


@dataclass(frozen=True, slots=True)
class _Task:
    old: Path
    new: Path
    piece: Piece
    zero: bool
    copy: bool


def _in_parallel(tasks: Sequence[_Task], jobs: int) -> Iterator[_Made]:
    """Yield the results in order; sorting suffixes holds the interpreter's lock, hence processes.

    An interrupt from the terminal reaches them too: it is this process that ends them, without a traceback of each.

    Raises:
        LocalError: ERROR; a process was killed.
    """
    quiet = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=signal.signal, initargs=quiet) as pool:
        under_way: deque[Future[_Made]] = deque()
        try:
            for task in tasks:
                under_way.append(pool.submit(_make, task))
                if len(under_way) > jobs * QUEUE:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise LocalError(
                ErrorCode.ERROR,
                "a process that makes a part of the delta was killed, by a lack of memory most likely",
                hint="Build with fewer --jobs: each may take some hundred MiB.",
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else all that was handed out is waited for
            raise


def _make(task: _Task) -> _Made:
    """Find the smallest form of a piece; runs in a process of its own."""
    if task.zero:
        return _Made(task.piece, OpType.ZERO)
    source = _read(task.old, task.piece.old)
    if task.copy:
        return _Made(task.piece, OpType.SOURCE_COPY, source_sha256=sha256(source).digest())
    content = _read(task.new, task.piece.new)
    quick = len(zstandard.ZstdCompressor(level=QUICK_LEVEL).compress(content))
    patch = b""
    if source and (quick < len(content) * DENSE or _has_some(source, content)):
        patch = make_patch(source, content)
    patched = _Made(task.piece, OpType.BROTLI_BSDIFF, patch, sha256(source).digest())
    if patch and len(patch) < quick * CLEARLY:
        return patched
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(content)
    if patch and len(patch) < len(packed):
        return patched
    fresh = Piece(task.piece.new)
    return (
        _Made(fresh, OpType.REPLACE_ZSTD, packed)
        if len(packed) < len(content)
        else _Made(fresh, OpType.REPLACE, content)
    )


def _has_some(source: bytes, content: bytes) -> bool:
    """Tell whether samples of the content stand in the source; if not, sorting its suffixes would be for nothing."""
    step = max(1, len(content) // PROBES)
    return any(content[at : at + PROBE_BYTES] in source for at in range(step // 2, len(content) - PROBE_BYTES, step))


def _read(image: Path, blocks: Iterable[int]) -> bytes:
    parts = []
    with image.open("rb") as file:
        for start, count in extents(blocks):
            data = os.pread(file.fileno(), count * BLOCK, start * BLOCK)
            parts.append(data.ljust(count * BLOCK, b"\0"))
    return b"".join(parts)


def extents(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Return runs of neighbouring blocks: first block and count of each, in the given order."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and block == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return runs


def _operation(made: _Made, offset: int) -> pb.InstallOperation:
    operation = pb.InstallOperation(type=made.kind)
    for start, count in extents(made.piece.new):
        operation.dst_extents.add(start_block=start, num_blocks=count)
    if made.source_sha256:
        for start, count in extents(made.piece.old):
            operation.src_extents.add(start_block=start, num_blocks=count)
        operation.src_sha256_hash = made.source_sha256
    if made.data:
        operation.data_offset, operation.data_length = offset, len(made.data)
        operation.data_sha256_hash = sha256(made.data).digest()
        operation.src_length = len(made.piece.old) * BLOCK if made.source_sha256 else 0
        operation.dst_length = len(made.piece.new) * BLOCK
    return operation
