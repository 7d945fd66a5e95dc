"""The second reader's patches: BSDIFF40 and BSDF2 applied byte by byte, sharing no code with the product."""

from __future__ import annotations

import bz2
import struct
from collections.abc import Callable

import brotli

BSDF2_UNPACK: dict[int, Callable[[bytes], bytes]] = {1: bz2.decompress, 2: brotli.decompress}


def unpatch(old: bytes, patch: bytes) -> bytes:
    """Return what a patch makes of `old`."""
    if patch[:8] == b"BSDIFF40":
        unpack = [bz2.decompress] * 3
    else:
        assert patch[:5] == b"BSDF2"
        unpack = [BSDF2_UNPACK[kind] for kind in patch[5:8]]
    control_size, diff_size, new_size = struct.unpack_from("<QQQ", patch, 8)
    control = unpack[0](patch[32 : 32 + control_size])
    diff = unpack[1](patch[32 + control_size : 32 + control_size + diff_size])
    extra = unpack[2](patch[32 + control_size + diff_size :])
    made, at = bytearray(), 0
    for add, copy, seek in struct.iter_unpack("<QQQ", control):
        assert at + add <= len(old)
        made += bytes((a + b) % 256 for a, b in zip(old[at : at + add], diff[:add], strict=True))
        made += extra[:copy]
        diff, extra = diff[add:], extra[copy:]
        at += add + (seek if seek < 1 << 63 else (1 << 63) - seek)
        assert 0 <= at <= len(old)
    assert (len(made), diff, extra) == (new_size, b"", b"")
    return bytes(made)
