"""The medium under a partition table: a few verbs, so that a test can record what is written in which order."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

BLKSSZGET = 0x1268  # linux/fs.h: the logical sector size of a block device
FLOCK = struct.Struct("@hhqqi")  # fcntl(2)'s struct flock: type, whence, start, length, pid


class Disk(Protocol):
    """Random access with an explicit flush; offsets and lengths in bytes."""

    @property
    def size(self) -> int:
        """Bytes on the medium."""
        ...

    @property
    def sector_size(self) -> int | None:
        """Bytes of a sector; None when the medium doesn't tell, as an image file."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`; durable only after `flush`."""
        ...

    def flush(self) -> None:
        """Return when everything written is on the medium; what is read next comes from there."""
        ...


class FileDisk:
    """A block device or an image file; a context manager."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open it, and wait until nobody else of ours changes its table; for writing, until nobody reads it either.

        Raises:
            OSError: it can't be opened, or it is neither a block device nor a file.
        """
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        self._fd = os.open(path, flags)
        try:
            mode = os.fstat(self._fd).st_mode
            if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
                raise OSError(f"{path} is neither a block device nor a file")
            self._size = os.lseek(self._fd, 0, os.SEEK_END)
            self._sector_size = _sector_size(self._fd) if stat.S_ISBLK(mode) else None
            _lock(self._fd, fcntl.F_WRLCK if writable else fcntl.F_RDLCK)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    @property
    def size(self) -> int:
        """Bytes on the medium."""
        return self._size

    @property
    def sector_size(self) -> int | None:
        """Bytes of a sector of a block device; None for a file."""
        return self._sector_size

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises:
            OSError: the medium failed, or ends before.
        """
        data = os.pread(self._fd, length, offset)
        if len(data) != length:
            raise OSError(f"only {len(data)} of {length} bytes at {offset}")
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            OSError: the medium failed or is full.
        """
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def flush(self) -> None:
        """Return when everything written is on the medium, and forget the cached copy.

        Raises:
            OSError: the medium failed.
        """
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _sector_size(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, BLKSSZGET, bytes(4)), "little")


def _lock(fd: int, kind: int) -> None:
    """Let nobody see a table half written, nor change it between our reading and writing it.

    A lock on the first sector that belongs to this open file, so that it neither meets the lock which an install holds
    on the whole image file (flock) nor goes when another descriptor of this process is closed (POSIX locks).
    """
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, FLOCK.pack(kind, os.SEEK_SET, 0, 512, 0))
