"""A medium in memory that records what is written in which order, and every state that a power cut may leave of it.

Between two flushes a medium may take the sectors that were written in any order and any subset, and tear the one that
it is at. After a flush all of them are there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

EXHAUSTIVE_SECTORS = 6  # up to so many changed sectors in an epoch, every subset is tried


@dataclass
class MemoryDisk:
    """Bytes as a medium; the log has every write and flush."""

    data: bytearray
    sector: int = 512
    log: list[tuple[int, bytes] | None] = field(default_factory=list)  # None is a flush
    fail_at: int | None = None  # the write with this number, counted from 0, fails

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def sector_size(self) -> int | None:
        return None

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        if self.fail_at == sum(entry is not None for entry in self.log):
            raise OSError(5, "Input/output error")
        self.data[offset : offset + len(data)] = data
        self.log.append((offset, bytes(data)))

    def flush(self) -> None:
        self.log.append(None)

    @contextmanager
    def open(self, writable: bool) -> Iterator[MemoryDisk]:
        """Stand in for opening a device."""
        yield self

    def copy(self) -> MemoryDisk:
        """Return the same medium with an empty log."""
        return MemoryDisk(bytearray(self.data), self.sector)


def crash_states(before: bytes, disk: MemoryDisk, chance: random.Random, samples: int) -> Iterator[bytes]:
    """Return every state that a cut during the recorded writes may leave, from `before` to after the last write.

    Args:
        before: the medium before the first write.
        disk: the medium that recorded.
        chance: picks the subsets of an epoch that has too many changed sectors for all of them.
        samples: how many subsets it picks.
    """
    durable = bytearray(before)
    for epoch in _epochs(disk.log):
        after = bytearray(durable)
        for offset, data in epoch:
            after[offset : offset + len(data)] = data
        changed = _changed_sectors(durable, after, epoch, disk.sector)
        for subset in _subsets(changed, chance, samples):
            yield _with_sectors(durable, after, subset, disk.sector)
        yield from _torn(durable, after, changed, disk.sector)
        durable = after
    yield bytes(durable)


def _epochs(log: list[tuple[int, bytes] | None]) -> Iterator[list[tuple[int, bytes]]]:
    epoch: list[tuple[int, bytes]] = []
    for entry in log:
        if entry is None:
            yield epoch
            epoch = []
        else:
            epoch.append(entry)
    yield epoch


def _changed_sectors(before: bytearray, after: bytearray, epoch: list[tuple[int, bytes]], size: int) -> list[int]:
    touched = {at for offset, data in epoch for at in range(offset // size, -(-(offset + len(data)) // size))}
    return sorted(at for at in touched if before[at * size : (at + 1) * size] != after[at * size : (at + 1) * size])


def _subsets(changed: list[int], chance: random.Random, samples: int) -> Iterator[list[int]]:
    if len(changed) <= EXHAUSTIVE_SECTORS:
        for mask in range(1 << len(changed)):
            yield [at for bit, at in enumerate(changed) if mask >> bit & 1]
        return
    yield from (changed[:count] for count in range(len(changed) + 1))  # every prefix
    yield from ([at for at in changed if at != lost] for lost in changed)  # every single loss
    for _ in range(samples):
        yield [at for at in changed if chance.random() < 0.5]


def _with_sectors(before: bytearray, after: bytearray, sectors: list[int], size: int) -> bytes:
    state = bytearray(before)
    for at in sectors:
        state[at * size : (at + 1) * size] = after[at * size : (at + 1) * size]
    return bytes(state)


def _torn(before: bytearray, after: bytearray, changed: list[int], size: int) -> Iterator[bytes]:
    """Each changed sector torn in itself, at each byte that changes: first those before it arrived, then it."""
    for at in changed[:EXHAUSTIVE_SECTORS]:
        state = bytearray(before)
        for byte in range(at * size, (at + 1) * size):
            if before[byte] != after[byte]:
                state[byte] = after[byte]
                yield bytes(state)
