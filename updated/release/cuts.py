"""Where an image is cut into chunks: along its files, so that what changes in one spoils little of another.

A chunk is fetched whole when any block of it is new to a host. So it may be large inside of a large file, which mostly
changes all over or not at all; and it ends where a file ends, rather than go on into one that has nothing to do with
it. Of a Debian root that makes half as many chunks as equal ones of 64 KiB do, and 3 % less to fetch, both of the whole
and of what a point release changes (measured; the numbers below are a compromise between the two among ten tried).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from updated.release.chunks import BLOCK
from updated.release.ext4 import file_blocks

NO_FILE = 0
MOST = 4  # times the usual size: inside of one file
ENOUGH, LEAST = 0.75, 0.25  # of it: to end with a file; to end before a file that has enough for itself


def owners(image: Path) -> array[int]:
    """Return which file each block belongs to, counted from 1 on, or NO_FILE; all of them, where it isn't ext4.

    Raises:
        OSError: the image can't be read.
    """
    owner = array("I", bytes(4 * -(-image.stat().st_size // BLOCK)))
    for number, file in enumerate(file_blocks(image, BLOCK), 1):
        for block in file.blocks:
            if block < len(owner):
                owner[block] = number
    return owner


def cut(owner: array[int], chunk: int) -> Iterator[int]:
    """Yield the lengths in bytes of all chunks, in order; the last one may go beyond the image's last byte.

    Args:
        owner: of each block, as `owners` returns it.
        chunk: the usual size in bytes, and the largest outside of files.
    """
    usual = chunk // BLOCK
    enough, least, filled = usual * ENOUGH, usual * LEAST, 0
    for file, blocks in groupby(owner):
        run = sum(1 for _ in blocks)
        if filled >= enough or (filled >= least and run >= enough):
            yield filled * BLOCK
            filled = 0
        most = usual if file == NO_FILE else usual * MOST
        while filled + run >= most:
            yield most * BLOCK
            filled, run = 0, run - (most - filled)
        filled += run
    if filled:
        yield filled * BLOCK
