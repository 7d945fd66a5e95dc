"""Turns an image into operations and their data: independent chunks, compressed in parallel, in bounded memory."""

from __future__ import annotations

import bz2
import lzma
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import zstandard

from updated.errors import ErrorCode, LocalError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.index import describe_chunk
from updated.payload.manifest import OpType

BLOCK = 4096
# made once, fetched by every host: a tenth smaller than level 9 in chunks of 64 KiB, and unpacked as fast
ZSTD_LEVEL = 19
QUEUE = 4  # chunks a worker may have waiting

Compressor = Callable[[bytes], bytes]
_contexts = threading.local()


def _zstd(data: bytes) -> bytes:
    """Compress with this thread's context: making one costs more than a small chunk does."""
    if not hasattr(_contexts, "zstd"):
        _contexts.zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    packed: bytes = _contexts.zstd.compress(data)
    return packed


COMPRESSIONS: dict[str, tuple[OpType, Compressor]] = {
    "zstd": (OpType.REPLACE_ZSTD, _zstd),
    "xz": (OpType.REPLACE_XZ, lambda data: lzma.compress(data, check=lzma.CHECK_CRC32)),
    "bz2": (OpType.REPLACE_BZ, lambda data: bz2.compress(data, 9)),
    "none": (OpType.REPLACE, bytes),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How to compress."""

    compression: str  # a key of COMPRESSIONS
    zeros: bool  # write ZERO operations (version 2) rather than compressed zeros
    jobs: int  # threads; the result doesn't depend on it
    index: bool = False  # describe the chunks too
    most_data: int = 2**63 - 1  # bytes that the payload's data may come to


@dataclass(frozen=True, slots=True)
class Chunked:
    """An image as operations; their data lie in the spool, in this order, without gaps."""

    operations: tuple[pb.InstallOperation, ...]
    size: int  # of the image, bytes
    sha256: bytes
    data_end: int  # where the next data would begin
    described: tuple[tuple[bytes, bytes], ...] = ()  # the chunks that an index tells about


@dataclass(frozen=True, slots=True)
class _Packed:
    """A chunk, compressed; no description: it is zeros, or none is wanted."""

    data: bytes
    kind: OpType
    blob: bytes
    description: tuple[bytes, bytes] | None = None


def chunk_image(image: Path, spool: BinaryIO, lengths: Iterable[int], *, start: int, plan: Plan) -> Chunked:
    """Compress an image into the spool.

    Args:
        image: a file.
        spool: where the chunks' data go.
        lengths: of the chunks, in bytes, whole blocks; at least as many as the image has room for.
        start: the offset of the first data among the payload's.
        plan: how.

    Raises:
        OSError: the image can't be read or the spool written.
        LocalError: USAGE; the data are more than the payload's version has offsets for.
    """
    whole, size, operations, offset = sha256(), 0, list[pb.InstallOperation](), start
    described = []
    for packed in _compressed(image, lengths, plan):
        whole.update(packed.data)
        operation = pb.InstallOperation(type=packed.kind)
        operation.dst_extents.add(start_block=size // BLOCK, num_blocks=-(-len(packed.data) // BLOCK))
        if packed.kind != OpType.ZERO:
            operation.data_offset, operation.data_length = offset, len(packed.blob)
            operation.data_sha256_hash = sha256(packed.blob).digest()
            operation.dst_length = len(packed.data)
            spool.write(packed.blob)
            offset += len(packed.blob)
            if offset > plan.most_data:
                raise _too_much(image, plan.most_data)
        if packed.description is not None:
            described.append(packed.description)
        size += len(packed.data)
        _append(operations, operation)
    return Chunked(tuple(operations), size, whole.digest(), offset, tuple(described))


def _too_much(image: Path, most: int) -> LocalError:
    return LocalError(
        ErrorCode.USAGE,
        f"with {image} the payload has over {most} bytes of data, and the offsets of version 1 end there",
        hint="Build version 2: leave --major out. For hosts that need version 1, compress or make the image smaller.",
    )


def _append(operations: list[pb.InstallOperation], operation: pb.InstallOperation) -> None:
    """Add an operation; a ZERO one that follows another makes that one longer."""
    if operations and operation.type == OpType.ZERO == operations[-1].type:
        operations[-1].dst_extents[0].num_blocks += operation.dst_extents[0].num_blocks
    else:
        operations.append(operation)


def _compressed(image: Path, lengths: Iterable[int], plan: Plan) -> Iterator[_Packed]:
    def work(data: bytes) -> _Packed:
        if plan.zeros and not any(data):
            return _Packed(data, OpType.ZERO, b"")
        kind, compress = COMPRESSIONS[plan.compression]
        blob = compress(data)
        description = describe_chunk(data + bytes(-len(data) % BLOCK), BLOCK) if plan.index else None
        if len(blob) >= len(data):
            return _Packed(data, OpType.REPLACE, data, description)
        return _Packed(data, kind, blob, description)

    with image.open("rb") as file, ThreadPoolExecutor(plan.jobs) as pool:
        under_way: deque[Future[_Packed]] = deque()
        for length in lengths:
            if not (data := file.read(length)):
                break
            under_way.append(pool.submit(work, data))
            if len(under_way) > plan.jobs * QUEUE:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
