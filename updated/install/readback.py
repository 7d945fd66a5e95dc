"""Reads a slot back from the medium and compares it with what was signed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

from updated.errors import ErrorCode, RefusedError
from updated.install.carry import Meter
from updated.install.medium import ALIGNMENT, Target, aligned_buffer
from updated.payload.manifest import Image

PIECE = 2 * 1024 * 1024  # bytes read at once; one piece is read while the one before it is hashed


def check_slot(target: Target, wanted: Image, meter: Meter) -> None:
    """Flush, read the image back and compare.

    Raises:
        RefusedError: PARTITION_HASH_MISMATCH.
        LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK.
    """
    target.flush()
    target.drop_cache()
    running = sha256()
    buffers = (aligned_buffer(PIECE), aligned_buffer(PIECE))

    def read(number: int) -> memoryview:
        at = number * PIECE
        length = min(PIECE, wanted.size - at)
        into = buffers[number % 2][: min(-(-length // ALIGNMENT) * ALIGNMENT, target.size - at)]
        target.read_back(at, into)
        return into[:length]

    count = -(-wanted.size // PIECE)
    with ThreadPoolExecutor(1, thread_name_prefix="read-back") as ahead:
        coming = ahead.submit(read, 0) if count else None
        for number in range(count):
            if coming is None:
                raise AssertionError("every piece but the last one asks for the next")
            piece = coming.result()
            coming = ahead.submit(read, number + 1) if number + 1 < count else None
            running.update(piece)
            meter.add(len(piece))
    if running.digest() != wanted.sha256:
        raise RefusedError(
            ErrorCode.PARTITION_HASH_MISMATCH,
            f"what {target.name} holds is not what was signed",
            hint="If the payload installs elsewhere, this medium is failing: see `dmesg` and `smartctl`.",
        )
