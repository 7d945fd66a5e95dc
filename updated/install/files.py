"""A file that a payload brings beside the root (a kernel): written aside, renamed once everything is proven.

It may come as a delta to the running slot's own file, which is only read.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from updated.common.durable import rename_flushed, sync_directory
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.operations import Writable, copy, hash_of
from updated.payload.manifest import Image
from updated.payload.parse import BESIDE

MODE = 0o600  # as update_engine leaves its kernels
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class OldFile:
    """The running slot's file, which a delta was made from; use it as a context. Behind its end it reads as zeros."""

    def __init__(self, path: Path, image: Image) -> None:
        self._path, self.image = path, image
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not be waited for
        except OSError as error:
            raise _foreign(f"{self._path} can't be read: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def check(self) -> None:
        """See that it is what the delta was made from.

        Raises:
            RefusedError: SOURCE_MISMATCH.
            LocalError: READ_BACK.
        """
        size = self.image.size
        if os.fstat(self._fd).st_size != size or hash_of(self, size) != self.image.sha256:
            raise _foreign(f"{self._path} is another file than the one that the delta was made from")

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes; what is behind the end, of the last block, as zeros.

        Raises:
            LocalError: READ_BACK.
        """
        return _read(self._fd, self._path, offset, min(length, max(0, self.image.size - offset))).ljust(length, b"\0")


def _foreign(message: str) -> RefusedError:
    return RefusedError(
        ErrorCode.SOURCE_MISMATCH,
        message,
        hint="Offer a payload whose kernel is whole, or the delta for the version that runs here.",
    )


class FileTarget:
    """Writes `PATH.updated-new`; `commit` makes it PATH, leaving the context without it removes it.

    `setting` is what an operator may change when PATH can't be written.
    """

    def __init__(self, path: Path, image: Image, *, mode: int = MODE, setting: str = "slots.kernel_path") -> None:
        self.path, self._image, self._mode, self._setting = path, image, mode, setting
        self._beside = path.with_name(path.name + BESIDE)
        self._fd = -1
        self._committed = False

    def __enter__(self) -> Self:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._beside, flags, MODE)
            os.fchmod(self._fd, self._mode)  # whatever the umask is
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if self._committed:
            return
        try:
            self._beside.unlink(missing_ok=True)
        except OSError as left:
            if error is None:  # else that one is what counts
                raise self._failed(left) from left

    @property
    def size(self) -> int:
        """Return how many bytes it will have."""
        return self._image.size

    def medium(self) -> tuple[int, int]:
        """Return the number of its file system's device, and how many bytes are free there."""
        room = os.fstatvfs(self._fd)
        return os.fstat(self._fd).st_dev, room.f_bavail * room.f_frsize

    def begin_with(self, old: OldFile, block_size: int) -> None:
        """Copy an old file, for a delta that changes it in place; whole blocks of it can be read then, and of the new.

        Raises:
            LocalError: READ_BACK, DOWNLOAD_WRITE, NO_SPACE.
        """
        copy(old, self, old.image.size)
        blocks = max(image.blocks(block_size) for image in (old.image, self._image))
        try:
            os.ftruncate(self._fd, blocks * block_size)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise self._failed(error) from error

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises:
            LocalError: READ_BACK.
        """
        return _read(self._fd, self._beside, offset, length)

    def check(self) -> None:
        """Cut the file to its size, flush it, and compare what is read back with the signed hash.

        Raises:
            RefusedError: FILE_HASH_MISMATCH.
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        try:
            os.ftruncate(self._fd, self._image.size)
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failed(error) from error
        if hash_of(self, self._image.size) != self._image.sha256:
            raise RefusedError(
                ErrorCode.FILE_HASH_MISMATCH,
                f"{self.path} would not be what was signed",
                hint="Ask whoever built the payload; if it installs elsewhere, this medium is failing.",
            )

    def commit(self) -> None:
        """Rename the checked file into place, durably.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        try:
            rename_flushed(self._beside, self.path)
            self._committed = True
            sync_directory(self.path.parent)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> LocalError:
        return LocalError(
            ErrorCode.NO_SPACE if error.errno in NO_SPACE else ErrorCode.DOWNLOAD_WRITE,
            f"{self.path} can't be written: {error.strerror}",
            hint=f"Look at {self._setting} in the settings, and at free space there.",
        )


class PartTarget(Writable, Protocol):
    """Where a part of a slot goes that isn't its root: written, then checked, then put in place."""

    def check(self) -> None:
        """Flush it, and compare what the medium gives back with the signed hash."""
        ...

    def commit(self) -> None:
        """Put it in place, durably."""
        ...


@dataclass(frozen=True, slots=True)
class Beside:
    """A part that goes beside the root, and what its operations read: its old self, where it comes as a delta."""

    target: PartTarget
    old: OldFile | None = None
    in_place: bool = False  # whether it begins as a copy of its old self


def _read(fd: int, path: Path, offset: int, length: int) -> bytes:
    try:
        data = os.pread(fd, length, offset)
        if len(data) != length:
            raise OSError(errno.EIO, "it ends early")
    except OSError as error:
        raise LocalError(
            ErrorCode.READ_BACK,
            f"{path} can't be read: {error.strerror}",
            hint="The medium may be failing; see the kernel's log (`dmesg`).",
        ) from error
    return data
