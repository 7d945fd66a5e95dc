"""Whether files changed since they were read: what stat(2) tells of each, compared and never understood."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Fingerprint = tuple[tuple[str, tuple[int, ...] | None], ...]


def fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """Return what tells these files' present state from any other: of each link, what it leads to as well.

    A file that is replaced has another inode, one that is written another time or size. What can't be looked at is
    None.
    """
    return tuple((str(path), _state(path)) for path in sorted(set(paths)))


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        seen = (path.lstat(), path.stat())
    except OSError:
        return None
    return tuple(
        number
        for one in seen
        for number in (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_mode)
    )
