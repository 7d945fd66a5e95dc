"""Small files that survive a power cut: written beside, flushed, renamed, flushed again, directory flushed."""

from __future__ import annotations

import glob
import os
from pathlib import Path


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` with `data` so that a cut leaves the old or the new content, never a mixture.

    What a cut left beside it is removed with the next replacement.

    Raises:
        OSError: the file system refused; the old content is still there.
    """
    _sweep(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            give_to_directory_owner(fd, path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename_flushed(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _sweep(path: Path) -> None:
    """Remove what processes that are gone left unfinished."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.rsplit(".", 2)[1]
        if number.isdecimal() and not Path("/proc", number).exists():
            left.unlink(missing_ok=True)


def give_to_directory_owner(fd: int, directory: Path) -> None:
    """Let a file that root makes in a daemon's directory belong to that daemon, which must go on using it.

    A file that belongs to that owner as it is isn't touched: a daemon in its own directory makes no system call that
    its unit's `SystemCallFilter=` forbids (`fchown` is one of `@privileged`, even where it changes nothing).

    Raises:
        OSError: the directory can't be looked at, or the file can't be given away.
    """
    if os.geteuid() != 0:
        return
    owner, made = directory.stat(), os.fstat(fd)
    if (owner.st_uid, owner.st_gid) != (made.st_uid, made.st_gid):
        os.fchown(fd, owner.st_uid, owner.st_gid)


def rename_flushed(old: Path, new: Path) -> None:
    """Rename a file, and flush it once more under its new name; `sync_directory` then makes the name durable.

    FAT keeps a file's size in its name's entry, and Linux writes that with the file: without this flush the medium has
    the new name with size 0, whatever was flushed before the rename and even when the directory is flushed after it.

    Raises:
        OSError: the file system refused.
    """
    old.replace(new)
    fd = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_durably(path: Path) -> None:
    """Remove `path` if it is there, and flush its directory.

    Raises:
        OSError: the file system refused.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to the medium."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_bounded(path: Path, limit: int) -> bytes:
    """Read at most `limit` bytes of a file.

    Raises:
        OSError: the file can't be read.
        ValueError: it is longer than `limit` bytes.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} is longer than {limit} bytes")
    return data
