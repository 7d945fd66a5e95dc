"""From an operation's data to the bytes that it writes, bounded: a bomb is cut off at one byte too many."""

from __future__ import annotations

import bz2
import lzma
from collections import deque
from collections.abc import Callable
from hashlib import sha256

import zstandard

from updated.errors import ErrorCode, RefusedError, Retry
from updated.payload.bsdiff import apply_patch
from updated.payload.limits import LIMITS
from updated.payload.manifest import PATCHES, Operation, OpType

Buffer = bytes | memoryview
NO_DATA = b""
_contexts: deque[zstandard.ZstdDecompressor] = deque(maxlen=8)  # to be used again: making one costs as much as a chunk


def check_data(op: Operation, data: Buffer) -> None:
    """Check an operation's data against the hash in the manifest.

    Raises:
        RefusedError: OPERATION_HASH_MISMATCH.
    """
    if op.data_sha256 and sha256(data).digest() != op.data_sha256:
        raise RefusedError(
            ErrorCode.OPERATION_HASH_MISMATCH,
            f"the data at {op.data_offset} (+{op.data_length}) are not what was signed",
            hint="The payload was changed or damaged on its way. Do not install it; get it from where it was built.",
            retry=Retry.OTHER_SOURCE,
        )


def check_source(op: Operation, source: Buffer) -> None:
    """Check what an operation reads against the hash in the manifest.

    Raises:
        RefusedError: SOURCE_MISMATCH.
    """
    if op.src_sha256 and sha256(source).digest() != op.src_sha256:
        raise RefusedError(
            ErrorCode.SOURCE_MISMATCH,
            "this delta is for another old image than the one that this host has",
            hint="Offer a full payload, or the delta for the version that runs here.",
        )


def decode(op: Operation, data: Buffer = NO_DATA, source: Buffer = NO_DATA) -> Buffer:
    """Return exactly `op.dst_length` bytes.

    Args:
        op: any operation but ZERO and DISCARD, which have no data to decode.
        data: its data, already checked.
        source: what its source extents hold, `op.src_length` bytes.

    Raises:
        RefusedError: OPERATION_EXECUTION; the data are malformed or make another number of bytes.
    """
    made = _made(op, data, source)
    if len(made) != op.dst_length:
        raise _malformed(op, f"it makes {len(made)} bytes, not {op.dst_length}")
    return made


def _made(op: Operation, data: Buffer, source: Buffer) -> Buffer:
    if op.type in (OpType.MOVE, OpType.SOURCE_COPY):
        return source
    if op.type in PATCHES:
        return apply_patch(bytes(source), bytes(data), op.dst_length)
    if op.type is OpType.REPLACE:
        return data
    return _DECOMPRESSORS[op.type](op, data)


def _bz2(op: Operation, data: Buffer) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    try:
        made = decompressor.decompress(data, op.dst_length + 1)
    except (OSError, ValueError) as error:
        raise _malformed(op, str(error)) from error
    _check_end(op, eof=decompressor.eof, unused=decompressor.unused_data)
    return made


def _xz(op: Operation, data: Buffer) -> bytes:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LIMITS.xz_memory_bytes)
    try:
        made = decompressor.decompress(data, op.dst_length + 1)
    except lzma.LZMAError as error:
        raise _malformed(op, str(error)) from error
    _check_end(op, eof=decompressor.eof, unused=decompressor.unused_data)
    return made


def _zstd(op: Operation, data: Buffer) -> bytes:
    # one frame with its size in the header, as release/ writes it; anything else is refused before it is unpacked
    try:
        size = zstandard.frame_content_size(data)
        if size != op.dst_length:
            raise _malformed(op, f"its frame says {size} bytes, not {op.dst_length}")
        return _unzstd(data, op.dst_length)
    except zstandard.ZstdError as error:
        raise _malformed(op, str(error)) from error


def _unzstd(data: Buffer, size: int) -> bytes:
    try:
        context = _contexts.pop()
    except IndexError:  # every one is at work in another thread
        context = zstandard.ZstdDecompressor(max_window_size=LIMITS.zstd_window_bytes)
    made = context.decompress(data, max_output_size=size, allow_extra_data=False)
    _contexts.append(context)
    return made


_DECOMPRESSORS: dict[OpType, Callable[[Operation, Buffer], bytes]] = {
    OpType.REPLACE_BZ: _bz2,
    OpType.REPLACE_XZ: _xz,
    OpType.REPLACE_ZSTD: _zstd,
}


def _check_end(op: Operation, *, eof: bool, unused: bytes) -> None:
    if not eof or unused:
        raise _malformed(op, "its data are cut off, too long, or followed by something else")


def _malformed(op: Operation, what: str) -> RefusedError:
    return RefusedError(
        ErrorCode.OPERATION_EXECUTION,
        f"a {op.type.name} operation can't be carried out: {what}",
        hint="Ask whoever built the payload.",
    )
