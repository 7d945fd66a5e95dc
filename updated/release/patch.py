"""Makes binary patches: bsdiff's differences in AOSP's BSDF2 container, each stream in the smaller compression."""

from __future__ import annotations

import bz2
import struct

import brotli
import bsdiff4.core

from updated.payload.bsdiff import MAGIC2

BZ2, BROTLI = 1, 2  # the container's numbers
QUALITY = 9  # of brotli; 11 takes fifteen times as long for 3 % of these streams


def make_patch(old: bytes, new: bytes) -> bytes:
    """Return a BSDF2 patch that makes `new` of `old`.

    Args:
        old: what the patch will be applied to; its suffixes are sorted, which takes 16 bytes of memory for each of its.
        new: what it shall make.
    """
    control, diff, extra = bsdiff4.core.diff(old, new)
    streams = [_compress(stream) for stream in (control, diff, extra)]
    kinds = bytes(kind for kind, _ in streams)
    lengths = struct.pack("<QQQ", len(streams[0][1]), len(streams[1][1]), len(new))
    return MAGIC2 + kinds + lengths + b"".join(packed for _, packed in streams)


def _compress(stream: bytes) -> tuple[int, bytes]:
    candidates = [(BROTLI, brotli.compress(stream, quality=QUALITY)), (BZ2, bz2.compress(stream))]
    return min(candidates, key=lambda candidate: len(candidate[1]))
