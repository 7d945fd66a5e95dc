"""A slot's bytes on the medium: written past the page cache where that can be, read back from the medium itself.

The page cache costs a copy and a lock for each page, and holds what nobody will read; without it a write of 1 MiB and
more goes to the device as it is. It needs memory, offsets and lengths in whole blocks: see `aligned_buffer`.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from types import TracebackType
from typing import NoReturn, Self

from updated.errors import ErrorCode, LocalError, RefusedError, Retry

ALIGNMENT = 4096  # bytes; enough for every logical sector size
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def aligned_buffer(size: int) -> memoryview:
    """Return `size` bytes of memory that begin on a page, as writing past the page cache needs."""
    return memoryview(mmap.mmap(-1, size))


class Target:
    """A slot opened for writing; offsets are within the slot, nothing outside of it can be reached."""

    def __init__(self, fd: int, offset: int, size: int, name: str) -> None:
        self._fd, self._offset = fd, offset
        self.size = size
        self.name = name
        self._lost: str | None = None  # why a flush failed
        self._direct = _reopen_direct(fd) if offset % ALIGNMENT == 0 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def is_on(self, named: os.stat_result) -> bool:
        """Tell whether it is (in) this file or device."""
        return os.path.samestat(os.fstat(self._fd), named)

    def close(self) -> None:
        """Give the descriptors and the lock back."""
        if self._direct is not None:
            os.close(self._direct)
        os.close(self._fd)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`; durable after `flush`. Several threads may write at once.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        self._write(self._fd, offset, memoryview(data))

    def write_aligned(self, offset: int, data: memoryview) -> None:
        """Write from an aligned buffer, past the page cache if offset and length allow it; as `write` otherwise.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        direct = self._direct is not None and offset % ALIGNMENT == len(data) % ALIGNMENT == 0
        self._write(self._direct if direct and self._direct is not None else self._fd, offset, data)

    def _write(self, fd: int, offset: int, view: memoryview) -> None:
        self._check(offset, len(view))
        at = self._offset + offset
        try:
            while view:
                written = os.pwrite(fd, view, at)
                if written <= 0:
                    raise OSError(errno.EIO, "the medium takes no more data")
                view, at = view[written:], at + written
                if written % ALIGNMENT:
                    fd = self._fd  # after a short write the rest isn't aligned any more
        except OSError as error:
            self._fail(error, f"{self.name} can't be written at {offset}")

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises:
            LocalError: READ_BACK.
        """
        self._check(offset, length)
        pieces, at, left = [], self._offset + offset, length
        try:
            while left:
                piece = os.pread(self._fd, left, at)
                if not piece:
                    raise OSError(errno.EIO, "the medium ends early")
                pieces.append(piece)
                at, left = at + len(piece), left - len(piece)
        except OSError as error:
            raise _unreadable(self.name, offset, error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_back(self, offset: int, into: memoryview) -> None:
        """Fill an aligned buffer from the medium itself; `flush` and `drop_cache` before, to prove what is there.

        Raises:
            LocalError: READ_BACK.
        """
        self._check(offset, len(into))
        direct = self._direct is not None and offset % ALIGNMENT == len(into) % ALIGNMENT == 0
        fd = self._direct if direct and self._direct is not None else self._fd
        at = self._offset + offset
        try:
            while into:
                count = os.preadv(fd, [into], at)
                if count <= 0:
                    raise OSError(errno.EIO, "the medium ends early")
                into, at = into[count:], at + count
                if count % ALIGNMENT:
                    fd = self._fd
        except OSError as error:
            raise _unreadable(self.name, offset, error) from error

    def flush(self) -> None:
        """Return when everything written is on the medium.

        A flush that failed fails for good: the kernel reports lost pages once and calls them clean from then on.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        try:
            if self._lost:
                raise OSError(errno.EIO, self._lost)
            os.fsync(self._fd)
        except OSError as error:
            self._lost = self._lost or f"an earlier flush failed: {error.strerror}"
            self._fail(error, f"{self.name} can't be flushed")

    def drop_cache(self) -> None:
        """Make the next reads come from the medium; call it after `flush`, for only clean pages can be dropped.

        Raises:
            LocalError: READ_BACK.
        """
        try:
            os.posix_fadvise(self._fd, self._offset, self.size, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise LocalError(
                ErrorCode.READ_BACK,
                f"the cache of {self.name} can't be dropped: {error.strerror}",
                hint="See the kernel's log (`dmesg`).",
            ) from error

    def check_space(self, needed: int) -> None:
        """See that the file system of an image file has room for the first `needed` bytes of the slot.

        A file with holes takes room when they are written; a device has it already.

        Raises:
            LocalError: NO_SPACE.
        """
        found, room = os.fstat(self._fd), os.fstatvfs(self._fd)
        missing = min(needed, found.st_size - found.st_blocks * 512)  # st_blocks counts 512 bytes: stat(2)
        free = room.f_bavail * room.f_frsize
        if missing > free:
            raise LocalError(
                ErrorCode.NO_SPACE,
                f"{self.name} has holes: up to {missing} bytes more are needed, the file system has {free}",
                hint="Make room there (`df`), or make the image file without holes.",
                retry=Retry.LATER,
            )

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise RefusedError(
                ErrorCode.EXTENT_OUT_OF_RANGE,
                f"bytes {offset}+{length} are not inside {self.name}, which has {self.size}",
                hint="Ask whoever built the payload.",
            )

    def _fail(self, error: OSError, what: str) -> NoReturn:
        code = ErrorCode.NO_SPACE if error.errno in NO_SPACE else ErrorCode.DOWNLOAD_WRITE
        raise LocalError(
            code,
            f"{what}: {error.strerror}",
            hint="See the kernel's log (`dmesg`) for the medium, and `df` for the file system of an image file.",
            retry=Retry.LATER,
        ) from error


class Writer:
    """Gathers neighbouring writes of one thread in an aligned buffer, for few and large ones; `flush` it in the end."""

    def __init__(self, target: Target, buffer: memoryview) -> None:
        self._target, self._buffer = target, buffer
        self._start = self._fill = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`, at the latest with the next `flush`.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        view = memoryview(data)
        if offset != self._start + self._fill:
            self.flush()
            self._start = offset
        while view:
            piece = view[: len(self._buffer) - self._fill]
            self._buffer[self._fill : self._fill + len(piece)] = piece
            self._fill += len(piece)
            view = view[len(piece) :]
            if self._fill == len(self._buffer):
                self.flush()

    def read(self, offset: int, length: int) -> bytes:
        """Read what the slot holds, with everything that was written here.

        Raises:
            LocalError: READ_BACK, and what `flush` raises.
        """
        self.flush()
        return self._target.read(offset, length)

    def flush(self) -> None:
        """Hand what is gathered to the medium; durable after the target's own `flush`.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        if self._fill:
            self._target.write_aligned(self._start, self._buffer[: self._fill])
        self._start, self._fill = self._start + self._fill, 0

    def forget(self) -> None:
        """Drop what is gathered; after an error it must not be written."""
        self._fill = 0


def _reopen_direct(fd: int) -> int | None:
    """Open the same file once more, past the page cache; None where its file system can't."""
    try:
        access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        return os.open(f"/proc/self/fd/{fd}", access | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None  # it is only faster: everything goes through the page cache then, and reads back after dropping it


def _unreadable(name: str, offset: int, error: OSError) -> LocalError:
    return LocalError(
        ErrorCode.READ_BACK,
        f"{name} can't be read at {offset}: {error.strerror}",
        hint="The medium may be failing; see the kernel's log (`dmesg`).",
    )
