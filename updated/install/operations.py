"""Carries out one operation: check its data, read its source, decode, write its extents."""

from __future__ import annotations

from hashlib import sha256
from typing import Protocol

from updated.payload.decode import Buffer, check_data, check_source, decode
from updated.payload.manifest import IN_PLACE, SPARSE_HOLE, ZEROES, Extent, Operation

PIECE = 1024 * 1024  # bytes copied, hashed or zeroed at once
ZERO_PIECE = bytes(PIECE)


class Readable(Protocol):
    """What source extents are read from."""

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes."""
        ...


class Writable(Readable, Protocol):
    """What destination extents are written to; offsets from the partition's beginning."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        ...


def copy(origin: Readable, target: Writable, size: int) -> None:
    """Copy the first `size` bytes.

    Raises:
        LocalError: a medium fails.
    """
    for at in range(0, size, PIECE):
        target.write(at, origin.read(at, min(PIECE, size - at)))


def hash_of(origin: Readable, size: int) -> bytes:
    """Return the SHA-256 of the first `size` bytes.

    Raises:
        LocalError: the medium fails.
    """
    digest = sha256()
    for at in range(0, size, PIECE):
        digest.update(origin.read(at, min(PIECE, size - at)))
    return digest.digest()


def carry_out(op: Operation, data: Buffer, *, target: Writable, running: Readable | None, block_size: int) -> None:
    """Perform an operation.

    Args:
        op: the operation.
        data: its data as they stand in the payload.
        target: the partition that is written, and for MOVE and BSDIFF also read.
        running: the running partition, for operations that read it; None when there is none to read.
        block_size: of the extents, in bytes.

    Raises:
        RefusedError: OPERATION_HASH_MISMATCH, SOURCE_MISMATCH, OPERATION_EXECUTION.
        LocalError: the medium fails.
    """
    if op.type in ZEROES:
        _zero(op, target, block_size)
        return
    check_data(op, data)
    source: Buffer = b""
    if op.src_extents:
        origin: Readable | None = target if op.type in IN_PLACE else running
        if origin is None:
            raise AssertionError("the pipeline opens the running slot for operations that read it")
        source = _read(op.src_extents, origin, block_size)[: op.src_length]
        check_source(op, source)
    write_extents(op.dst_extents, memoryview(decode(op, data, source)), target, block_size)


def _read(extents: tuple[Extent, ...], origin: Readable, block_size: int) -> bytes:
    parts = []
    for extent in extents:
        length = extent.num_blocks * block_size
        hole = extent.start_block == SPARSE_HOLE  # reads as zeros
        parts.append(bytes(length) if hole else origin.read(extent.start_block * block_size, length))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_extents(extents: tuple[Extent, ...], data: memoryview, target: Writable, block_size: int) -> None:
    """Fill the extents in order; the last block is padded with zeros.

    Raises:
        LocalError: the medium fails.
    """
    for extent in extents:
        room = extent.num_blocks * block_size
        piece, data = data[:room], data[room:]
        if extent.start_block == SPARSE_HOLE or not piece:
            continue  # the bytes are consumed and have no place on the medium
        target.write(extent.start_block * block_size, piece)
        padding = -len(piece) % block_size
        if padding:
            target.write(extent.start_block * block_size + len(piece), bytes(padding))


def _zero(op: Operation, target: Writable, block_size: int) -> None:
    for extent in op.dst_extents:
        at, left = extent.start_block * block_size, extent.num_blocks * block_size
        while left:
            length = min(left, len(ZERO_PIECE))
            target.write(at, ZERO_PIECE[:length])
            at, left = at + length, left - length
