"""Binary patches in Colin Percival's BSDIFF40 format and AOSP's BSDF2, with every number of the control stream checked.

    "BSDIFF40" | control length | diff length | new size | control bz2 | diff bz2 | extra bz2
    "BSDF2" and three numbers (1 bzip2, 2 brotli) | the same, each part compressed as its number says (AOSP's bsdiff)

Each control entry is (add, copy, seek): `add` bytes of old plus diff modulo 256, `copy` bytes of extra, then `seek`
from there in old. Integers are 8 bytes, little endian, sign and magnitude. A position outside of old counts as zeros in
the reference implementation; a well-made patch has none, so here it is an error (CVE-2014-9862 came of such numbers).

The control stream is unpacked as it is read: 170 bytes of bzip2 can hold 100 MiB of steps that make nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from updated.errors import ErrorCode, RefusedError, Retry
from updated.payload.unpack import BrotliUnpacker, Bz2Unpacker, Unpacker, UnpackError

MAGIC = b"BSDIFF40"
MAGIC2 = b"BSDF2"  # followed by a compressor's number for each part
UNPACKERS: dict[int, Callable[[bytes], Unpacker]] = {1: Bz2Unpacker, 2: BrotliUnpacker}
HEADER = 32
SIGN = 1 << 63
ENTRY = struct.Struct("<QQQ")
CONTROL_PIECE = 1024 * ENTRY.size  # bytes of control stream unpacked at a time
IDLE_STEPS = 1024  # steps that only seek: a well-made patch has hardly one
ADD_PIECE = 64 * 1024  # bytes added at a time
LOW7 = int.from_bytes(b"\x7f" * ADD_PIECE, "little")
HIGH = int.from_bytes(b"\x80" * ADD_PIECE, "little")


def apply_patch(old: bytes, patch: bytes, new_size: int) -> bytes:
    """Return the `new_size` bytes that `patch` makes of `old`.

    Raises:
        RefusedError: OPERATION_EXECUTION; the patch is malformed or not for this size.
    """
    control_length, diff_length, says = _header(patch)
    if says != new_size:
        raise _malformed(f"it makes {says} bytes, not {new_size}")
    middle, end = HEADER + control_length, HEADER + control_length + diff_length
    if end > len(patch):
        raise _malformed("its parts are longer than the patch")
    control_of, diff_of, extra_of = _unpackers(patch[:8])
    diff = _unpack(diff_of(patch[middle:end]), new_size)
    extra = _unpack(extra_of(patch[end:]), new_size - len(diff))
    return _apply(old, control_of(patch[HEADER:middle]), diff, extra, new_size)


def _unpackers(magic: bytes) -> tuple[Callable[[bytes], Unpacker], ...]:
    """Return what unpacks control, diff and extra: all bzip2, or as the three bytes behind BSDF2 say."""
    if magic == MAGIC:
        return (Bz2Unpacker,) * 3
    kinds = magic[len(MAGIC2) :]
    if magic[: len(MAGIC2)] != MAGIC2 or not set(kinds) <= set(UNPACKERS):
        raise _malformed(f"it begins with {magic!r}")
    return tuple(UNPACKERS[kind] for kind in kinds)


def _header(patch: bytes) -> tuple[int, int, int]:
    if len(patch) < HEADER:
        raise _malformed("it has no header")
    lengths = (_integer(patch, 8), _integer(patch, 16), _integer(patch, 24))
    if min(lengths) < 0:
        raise _malformed("a length is negative")
    return lengths


def _apply(old: bytes, control: Unpacker, diff: bytes, extra: bytes, new_size: int) -> bytes:
    new = bytearray()
    at_old = at_diff = at_extra = idle = 0
    for add, copy, seek in _entries(control):
        idle += not (add or copy)
        if idle > IDLE_STEPS:
            raise _malformed(f"more than {IDLE_STEPS} steps make nothing")
        if add < 0 or copy < 0 or len(new) + add + copy > new_size:
            raise _malformed(f"a step of {add}+{copy} bytes doesn't fit")
        if add and not 0 <= at_old <= len(old) - add:
            raise _malformed(f"it reads the old data at {at_old}+{add} of {len(old)}")
        if at_diff + add > len(diff) or at_extra + copy > len(extra):
            raise _malformed("it is shorter than its steps need")
        new += add_bytes(old[at_old : at_old + add], diff[at_diff : at_diff + add])
        new += extra[at_extra : at_extra + copy]
        at_old, at_diff, at_extra = at_old + add + seek, at_diff + add, at_extra + copy
    if len(new) != new_size:
        raise _malformed(f"it ends after {len(new)} of {new_size} bytes")
    return bytes(new)


def _entries(control: Unpacker) -> Iterator[tuple[int, int, int]]:
    """Unpack the control stream piece by piece; whoever stops early pays only for what was read."""
    rest = b""
    while not control.finished:
        rest += _read(control, CONTROL_PIECE)
        whole = len(rest) - len(rest) % ENTRY.size
        for add, copy, seek in ENTRY.iter_unpack(rest[:whole]):
            yield _signed(add), _signed(copy), _signed(seek)
        rest = rest[whole:]
    if rest:
        raise _malformed("its control stream is cut off")


def _integer(data: bytes, at: int) -> int:
    return _signed(int.from_bytes(data[at : at + 8], "little"))


def _signed(value: int) -> int:
    return -(value ^ SIGN) if value & SIGN else value


def add_bytes(left: bytes, right: bytes) -> bytes:
    """Add two byte strings of one length, each byte modulo 256.

    As two big integers: the low seven bits of every byte can be added without a carry into the next, and the top bit
    is what exclusive or makes of both top bits and that carry. This runs at memory speed without a C extension.
    """
    return b"".join(
        _add(left[at : at + ADD_PIECE], right[at : at + ADD_PIECE]) for at in range(0, len(left), ADD_PIECE)
    )


def _add(left: bytes, right: bytes) -> bytes:
    if right.count(0) == len(right):
        return left
    a, b = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    return (((a & LOW7) + (b & LOW7)) ^ ((a ^ b) & HIGH)).to_bytes(len(left), "little")


def _unpack(part: Unpacker, limit: int) -> bytes:
    pieces, left = [], limit
    while not part.finished:
        piece = _read(part, left + 1)
        left -= len(piece)
        if left < 0:
            raise _malformed("a part is longer than what it makes")
        pieces.append(piece)
    return b"".join(pieces)


def _read(part: Unpacker, limit: int) -> bytes:
    try:
        return part.read(limit)
    except UnpackError as error:
        raise _malformed(f"a part is {error}") from error


def _malformed(what: str) -> RefusedError:
    return RefusedError(
        ErrorCode.OPERATION_EXECUTION,
        f"a binary patch is malformed: {what}",
        hint="Ask whoever built the payload.",
        retry=Retry.NO,
    )
