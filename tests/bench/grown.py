"""Images of any size that cost little to make: each 64 KiB has one block of data, the rest are holes.

No 64 KiB are all zero, so a payload has as many operations, and its index as many blocks, as of an image full of data.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

CHUNK, BLOCK = 64 * 1024, 4096


def make_grown(path: Path, size: int, *, old: bool) -> Path:
    """Make an image; every other chunk of the old one is the same as in the new one."""
    if path.exists() and path.stat().st_size == size:
        return path
    with path.open("wb") as file:
        file.truncate(size)
        for number in range(size // CHUNK):
            kind = "old" if old and number % 2 else "new"
            file.seek(number * CHUNK)
            file.write(sha256(f"{kind} {number}".encode()).digest() * (BLOCK // 32))
    return path
