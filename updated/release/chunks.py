"""Turns an image into operations and their data: independent chunks, compressed in parallel, in bounded memory."""

from __future__ import annotations

import bz2
import lzma
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import zstandard

from updated.payload import update_metadata_pb2 as pb
from updated.payload.manifest import OpType

BLOCK = 4096
ZSTD_LEVEL = 9  # twice the level costs ten times the time for 6 % of the size
QUEUE = 4  # chunks a worker may have waiting

Compressor = Callable[[bytes], bytes]
COMPRESSIONS: dict[str, tuple[OpType, Compressor]] = {
    "zstd": (OpType.REPLACE_ZSTD, lambda data: zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)),
    "xz": (OpType.REPLACE_XZ, lambda data: lzma.compress(data, check=lzma.CHECK_CRC32)),
    "bz2": (OpType.REPLACE_BZ, lambda data: bz2.compress(data, 9)),
    "none": (OpType.REPLACE, bytes),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How to cut and compress."""

    chunk: int  # bytes of an operation, a multiple of the block size
    compression: str  # a key of COMPRESSIONS
    zeros: bool  # write ZERO operations (version 2) rather than compressed zeros
    jobs: int  # threads; the result doesn't depend on it


@dataclass(frozen=True, slots=True)
class Chunked:
    """An image as operations; their data lie in the spool, in this order, without gaps."""

    operations: tuple[pb.InstallOperation, ...]
    size: int  # of the image, bytes
    sha256: bytes
    data_end: int  # where the next data would begin


def chunk_image(image: Path, spool: BinaryIO, *, start: int, plan: Plan) -> Chunked:
    """Compress an image into the spool, where its first data are at the offset `start` of the payload's data.

    Raises:
        OSError: the image can't be read or the spool written.
    """
    whole, size, operations, offset = sha256(), 0, list[pb.InstallOperation](), start
    for data, kind, blob in _compressed(image, plan):
        whole.update(data)
        operation = pb.InstallOperation(type=kind)
        operation.dst_extents.add(start_block=size // BLOCK, num_blocks=-(-len(data) // BLOCK))
        if kind != OpType.ZERO:
            operation.data_offset, operation.data_length = offset, len(blob)
            operation.data_sha256_hash = sha256(blob).digest()
            operation.dst_length = len(data)
            spool.write(blob)
            offset += len(blob)
        size += len(data)
        _append(operations, operation)
    return Chunked(tuple(operations), size, whole.digest(), offset)


def _append(operations: list[pb.InstallOperation], operation: pb.InstallOperation) -> None:
    """Add an operation; a ZERO one that follows another makes that one longer."""
    if operations and operation.type == OpType.ZERO == operations[-1].type:
        operations[-1].dst_extents[0].num_blocks += operation.dst_extents[0].num_blocks
    else:
        operations.append(operation)


def _compressed(image: Path, plan: Plan) -> Iterator[tuple[bytes, int, bytes]]:
    kind, compress = COMPRESSIONS[plan.compression]

    def work(data: bytes) -> tuple[bytes, int, bytes]:
        if plan.zeros and not any(data):
            return data, OpType.ZERO, b""
        blob = compress(data)
        return (data, kind, blob) if len(blob) < len(data) else (data, OpType.REPLACE, data)

    with image.open("rb") as file, ThreadPoolExecutor(plan.jobs) as pool:
        under_way: deque[Future[tuple[bytes, int, bytes]]] = deque()
        while data := file.read(plan.chunk):
            under_way.append(pool.submit(work, data))
            if len(under_way) > plan.jobs * QUEUE:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
