"""Disks as a power cut leaves them: recorded writes, replayed up to a moment, minus what a cache lost.

QEMU's blklogwrites driver records them.

The format is that of the Linux kernel's dm-log-writes target (Documentation/admin-guide/device-mapper/log-writes.rst),
which QEMU writes too: a superblock in the first sector, then for each request a sector with its entry, and its data.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0x6A736677736872
SUPERBLOCK = struct.Struct("<QQQI")  # magic, version, number of entries, sector size in bytes
ENTRY = struct.Struct("<QQQQ")  # first sector, number of sectors, flags, length of the data as the kernel gives it
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR = 512  # what a disk writes as one, at the least; a longer write may be torn between sectors


@dataclass(frozen=True)
class Write:
    """One request as it was recorded; offsets and lengths in bytes.

    Attributes:
        offset: where on the disk.
        length: how much.
        at: where in the log the data are; None: a discard, which has none.
        flush: everything that was written before this request is on the medium once it is done.
        fua: the request's own data are on the medium once it is done.
    """

    offset: int
    length: int
    at: int | None
    flush: bool
    fua: bool


@dataclass(frozen=True)
class Cut:
    """What a power cut after `requests` recorded requests did, for the reader of a failure."""

    requests: int
    durable: int
    unflushed: int
    lost: int
    torn: int

    def __str__(self) -> str:
        return (
            f"cut after request {self.requests}: {self.durable} durable, {self.unflushed} not flushed,"
            f" {self.lost} of them lost and {self.torn} torn"
        )


def read_log(log: Path) -> list[Write]:
    """Return the recorded requests in their order.

    Raises:
        ValueError: the file isn't such a log, or it ends within an entry.
    """
    with log.open("rb") as file:
        head = file.read(SUPERBLOCK.size)
        if len(head) < SUPERBLOCK.size:
            raise ValueError(f"{log} is too short for a log of writes")
        magic, version, count, sector = SUPERBLOCK.unpack(head)
        if magic != MAGIC or version != 1:
            raise ValueError(f"{log} is no log of writes: magic {magic:#x}, version {version}")
        writes = []
        position = sector
        for number in range(count):
            file.seek(position)
            raw = file.read(ENTRY.size)
            if len(raw) < ENTRY.size:
                raise ValueError(f"{log} ends within entry {number} of {count}")
            first, sectors, flags, _length = ENTRY.unpack(raw)
            position += sector
            has_data = not flags & DISCARD and sectors > 0
            at = position if has_data else None
            writes.append(Write(first * sector, sectors * sector, at, bool(flags & FLUSH), bool(flags & FUA)))
            position += sectors * sector if has_data else 0
        return writes


def last_flush(writes: list[Write], requests: int) -> int:
    """Return how many of the first `requests` requests the last flush among them covers."""
    return next((index for index in range(requests, 0, -1) if writes[index - 1].flush), 0)


class Replay:
    """A recorded run over the disk as it was before; makes the disk of any moment of it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.writes = read_log(log)

    def apply_all(self, disk: Path) -> None:
        """Bring a copy of the first disk to the end of the run."""
        with self._log.open("rb") as log, disk.open("r+b") as target:
            for write in self.writes:
                for offset, data in _sectors_of(write, log, whole=True):
                    target.seek(offset)
                    target.write(data)

    def cut(self, disk: Path, requests: int, dice: random.Random, *, flushes: bool = True) -> Cut:
        """Bring a copy of the first disk to a power cut after so many requests.

        What a flush covered is there, and what was written with FUA. Of each other write the dice decide whether it is
        there, isn't, or is there in part: some of its sectors. Without `flushes` the disk is one that takes no notice
        of them: a control, for then what is armed must be seen to be torn.
        """
        durable = last_flush(self.writes, requests) if flushes else 0
        lost = torn = 0
        with self._log.open("rb") as log, disk.open("r+b") as target:
            for index, write in enumerate(self.writes[:requests]):
                fate = "kept" if index < durable or (write.fua and flushes) else dice.choice(("kept", "lost", "torn"))
                lost += fate == "lost"
                torn += fate == "torn"
                if fate == "lost":
                    continue
                for offset, data in _sectors_of(write, log, whole=fate == "kept"):
                    if fate == "kept" or dice.random() < 0.5:
                        target.seek(offset)
                        target.write(data)
        return Cut(requests, durable, requests - durable, lost, torn)


def _sectors_of(write: Write, log: object, *, whole: bool) -> Iterator[tuple[int, bytes]]:
    """Yield a write's bytes and their offset on the disk, whole or sector by sector.

    A discard changes nothing here: what it leaves behind is the disk's choice.
    """
    if write.at is None:
        return
    log.seek(write.at)  # type: ignore[attr-defined]
    data = log.read(write.length)  # type: ignore[attr-defined]
    step = write.length if whole else SECTOR
    for start in range(0, write.length, step):
        yield write.offset + start, data[start : start + step]
