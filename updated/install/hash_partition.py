"""A slot's verity hash partition: the tree is written into it as it comes, flushed and read back like the root.

It is small beside the root, a hundredth of it, and written in the caller's thread.
"""

from __future__ import annotations

from hashlib import sha256

from updated.errors import ErrorCode, RefusedError
from updated.install.medium import ALIGNMENT, Target, Writer, aligned_buffer
from updated.payload.manifest import Image

PIECE = 1024 * 1024  # bytes written and read back at once


class HashPartition:
    """The tree's place; offsets from the partition's beginning."""

    def __init__(self, target: Target, image: Image) -> None:
        self._target, self._image = target, image
        self._buffer = aligned_buffer(PIECE)
        self._writer = Writer(target, self._buffer)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`, at the latest in `check`.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        self._writer.write(offset, data)

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes, with everything that was written here.

        Raises:
            LocalError: READ_BACK, DOWNLOAD_WRITE, NO_SPACE.
        """
        return self._writer.read(offset, length)

    def check(self) -> None:
        """Flush the partition, and compare what the medium gives back with the signed hash.

        Raises:
            RefusedError: PARTITION_HASH_MISMATCH.
            LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK.
        """
        self._writer.flush()
        self._target.flush()
        self._target.drop_cache()
        digest, size = sha256(), self._image.size
        for at in range(0, size, PIECE):
            length = min(PIECE, size - at)
            into = self._buffer[: min(-(-length // ALIGNMENT) * ALIGNMENT, self._target.size - at)]
            self._target.read_back(at, into)
            digest.update(into[:length])
        if digest.digest() != self._image.sha256:
            raise RefusedError(
                ErrorCode.PARTITION_HASH_MISMATCH,
                f"what {self._target.name} holds is not what was signed",
                hint="If the payload installs elsewhere, this medium is failing: see `dmesg` and `smartctl`.",
            )

    def commit(self) -> None:
        """Do nothing: what was checked is in its place, and the boot loader doesn't look there before it is told to."""
