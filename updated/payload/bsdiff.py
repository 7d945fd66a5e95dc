"""Binary patches in Colin Percival's BSDIFF40 format, with every number of the control stream checked.

    "BSDIFF40" | control length | diff length | new size | control bz2 | diff bz2 | extra bz2

Each control entry is (add, copy, seek): `add` bytes of old plus diff modulo 256, `copy` bytes of extra, then `seek`
from there in old. Integers are 8 bytes, little endian, sign and magnitude. A position outside of old counts as zeros in
the reference implementation; a well-made patch has none, so here it is an error (CVE-2014-9862 came of such numbers).
"""

from __future__ import annotations

import bz2
from collections.abc import Iterator

from updated.errors import ErrorCode, RefusedError, Retry

MAGIC = b"BSDIFF40"
HEADER = 32
SIGN = 1 << 63
LOW7 = 0x7F
HIGH = 0x80


def apply_patch(old: bytes, patch: bytes, new_size: int) -> bytes:
    """Return the `new_size` bytes that `patch` makes of `old`.

    Raises:
        RefusedError: OPERATION_EXECUTION; the patch is malformed or not for this size.
    """
    control_length, diff_length, says = _header(patch)
    if says != new_size:
        raise _malformed(f"it makes {says} bytes, not {new_size}")
    if HEADER + control_length + diff_length > len(patch):
        raise _malformed("its parts are longer than the patch")
    # an entry makes a byte or more, but for seeks: three numbers for each byte made is a generous bound
    control = _unpack(patch[HEADER : HEADER + control_length], 24 * (new_size + 1))
    diff = _unpack(patch[HEADER + control_length : HEADER + control_length + diff_length], new_size)
    extra = _unpack(patch[HEADER + control_length + diff_length :], new_size)
    return _apply(old, control, diff, extra, new_size)


def _header(patch: bytes) -> tuple[int, int, int]:
    if len(patch) < HEADER or patch[:8] != MAGIC:
        raise _malformed("it doesn't begin with BSDIFF40")
    lengths = (_integer(patch, 8), _integer(patch, 16), _integer(patch, 24))
    if min(lengths) < 0:
        raise _malformed("a length is negative")
    return lengths


def _apply(old: bytes, control: bytes, diff: bytes, extra: bytes, new_size: int) -> bytes:
    new = bytearray()
    at_old = at_diff = at_extra = 0
    for add, copy, seek in _entries(control):
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


def _entries(control: bytes) -> Iterator[tuple[int, int, int]]:
    if len(control) % 24:
        raise _malformed("its control stream is cut off")
    for at in range(0, len(control), 24):
        yield _integer(control, at), _integer(control, at + 8), _integer(control, at + 16)


def _integer(data: bytes, at: int) -> int:
    value = int.from_bytes(data[at : at + 8], "little")
    return -(value ^ SIGN) if value & SIGN else value


def add_bytes(left: bytes, right: bytes) -> bytes:
    """Add two byte strings of one length, each byte modulo 256.

    As two big integers: the low seven bits of every byte can be added without a carry into the next, and the top bit
    is what exclusive or makes of both top bits and that carry. This runs at memory speed without a C extension.
    """
    size = len(left)
    if not any(right):
        return left
    low, high = int.from_bytes(bytes([LOW7]) * size, "little"), int.from_bytes(bytes([HIGH]) * size, "little")
    a, b = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    return (((a & low) + (b & low)) ^ ((a ^ b) & high)).to_bytes(size, "little")


def _unpack(data: bytes, limit: int) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    try:
        made = decompressor.decompress(data, limit + 1)
    except (OSError, ValueError) as error:
        raise _malformed(f"a part is no bzip2 stream: {error}") from error
    if len(made) > limit or not decompressor.eof or decompressor.unused_data:
        raise _malformed("a part is too long or cut off")
    return made


def _malformed(what: str) -> RefusedError:
    return RefusedError(
        ErrorCode.OPERATION_EXECUTION,
        f"a binary patch is malformed: {what}",
        hint="Ask whoever built the payload.",
        retry=Retry.NO,
    )
