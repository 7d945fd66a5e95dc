"""Where installers write: loop devices over files in memory, wiped before each run and compared after it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tests.bench.tools import BenchError, run

MIB = 1024 * 1024
MEMORY = Path("/dev/shm")
PIECE = 4 * MIB


def fast_directory(fallback: Path, needed: int) -> Path:
    """Return a directory in memory if it has room for `needed` bytes, or the fallback."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 * needed:
        return MEMORY
    return fallback


@contextmanager
def attached(backing: Path) -> Iterator[Path]:
    """Yield a loop device over a file; the file itself where that can't be."""
    try:
        device = Path(run(["losetup", "--find", "--show", str(backing)]).stdout.strip())
    except (BenchError, OSError):
        print(f"no loop devices here: {backing.name} is used as a file", flush=True)
        yield backing
        return
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)


def make_slot(path: Path, size: int) -> Path:
    """Make a file of zeros, all of it allocated, as a device is."""
    with path.open("xb") as file:
        file.truncate(size)
    wipe(path, 0, size)
    return path


def wipe(path: Path, offset: int, size: int) -> None:
    """Overwrite with zeros, so that nothing which an earlier run wrote is of use."""
    with path.open("r+b") as file:
        file.seek(offset)
        for at in range(0, size, PIECE):
            file.write(bytes(min(PIECE, size - at)))
        file.flush()
        os.fsync(file.fileno())


def digest(path: Path, offset: int, size: int) -> str:
    """Return the SHA-256 of some bytes of a file or device.

    Raises:
        BenchError: it is shorter.
    """
    sha = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(offset)
        while size and (piece := file.read(min(PIECE, size))):
            sha.update(piece)
            size -= len(piece)
    if size:
        raise BenchError(f"{path} ends {size} bytes early")
    return sha.hexdigest()


def expect(path: Path, offset: int, image: Path) -> None:
    """See that a slot holds an image.

    Raises:
        BenchError: it doesn't.
    """
    known = image.stat()
    if digest(path, offset, known.st_size) != _digest_of(image, known.st_size, known.st_mtime_ns):
        raise BenchError(f"{path} doesn't hold {image.name}: what was measured was no install")


@lru_cache
def _digest_of(image: Path, size: int, _mtime_ns: int) -> str:
    """Return an image's SHA-256, computed once as long as it doesn't change."""
    return digest(image, 0, size)
