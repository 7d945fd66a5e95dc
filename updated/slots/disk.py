"""The medium under a partition table: a few verbs, so that a test can record what is written in which order."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


class Disk(Protocol):
    """Random access with an explicit flush; offsets and lengths in bytes."""

    @property
    def size(self) -> int:
        """Bytes on the medium."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`; durable only after `flush`."""
        ...

    def flush(self) -> None:
        """Return when everything written is on the medium."""
        ...


class FileDisk:
    """A block device or an image file; a context manager."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open it.

        Raises:
            OSError: it can't be opened.
        """
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        self._fd = os.open(path, flags)
        self._size = os.lseek(self._fd, 0, os.SEEK_END)

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
        """Return when everything written is on the medium.

        Raises:
            OSError: the medium failed.
        """
        os.fsync(self._fd)
