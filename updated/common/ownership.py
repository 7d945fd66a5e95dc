"""Whose word a file is: what steers a daemon may be written by root or by the daemon's own user, and by nobody else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_owned(path: Path, limit: int) -> bytes:
    """Read at most `limit` bytes of a file that only root, or the user that this runs as, can have written.

    The file that is looked at is the one that is read, whatever its name leads to meanwhile.

    Raises:
        OSError: the file can't be read, or others may write it; `strerror` says who.
        ValueError: it is longer than `limit` bytes.
    """
    with path.open("rb") as file:
        problem = writable_by_others(os.fstat(file.fileno()))
        if problem:
            raise PermissionError(errno.EPERM, problem, str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} is longer than {limit} bytes")
    return data


def writable_by_others(found: os.stat_result) -> str:
    """Return in words who else may write a file or a directory; empty when nobody does.

    Devices are left out: /dev/null, which everybody may write, is how a file of settings is masked.
    """
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return ""
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}, not to root: chown root, or remove it"
    if found.st_mode & stat.S_IWOTH:
        return "it may be changed by everybody: chmod o-w"
    return "it may be changed by its group: chmod g-w" if found.st_mode & stat.S_IWGRP else ""
