"""Finds chunks of a new image among the blocks that the host has already: in the running slot and in the target.

The index gives 5 bytes of hash for each block of the new image. They are put in a table, every block of a seed is
hashed and looked up, and a chunk of which all blocks were found can be put together from them. Memory: 5.6 bytes a
block for the table and 4 for the places, beside the 6 of the index itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from updated.install.medium import aligned_buffer
from updated.install.operations import Readable
from updated.payload.index import HASH_BYTES, Chunks, Index, block_hash, chunk_digest

PIECE = 1024 * 1024  # bytes of a seed that are read at once
ZERO_PIECE = bytes(PIECE)
CHUNKS_A_LOOK = 16  # about a piece
ROOM = 1.4  # table entries for each block: fuller is slower, emptier is larger
MISSING, ZERO = 0, 0xFFFFFFFF  # places; up to ALIAS one is a block of a seed
ALIAS = 0x80000000  # from here on: the same as the block with that number, counted from here
SEEDS = 2  # they are interleaved in the numbers of places: running slot, target


class Seed(Readable, Protocol):
    """Something to find blocks in; `size` in bytes."""

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        ...

    def read_back(self, offset: int, into: memoryview) -> None:
        """Fill an aligned buffer."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring bytes of a seed; no seed: zeros."""

    seed: Seed | None
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            LocalError: READ_BACK.
        """
        return bytes(self.length) if self.seed is None else self.seed.read(self.offset, self.length)


def _read_ahead(seed: Seed) -> Iterator[bytes]:
    """Yield a seed's bytes; while one piece is looked at, the next one is read.

    Raises:
        LocalError: READ_BACK.
    """
    buffer = aligned_buffer(PIECE)

    def read(at: int) -> bytes:
        into = buffer[: min(PIECE, seed.size - at)]
        seed.read_back(at, into)  # past the page cache: nobody will want all of it again soon
        return bytes(into)

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(read, 0)
        for following in range(PIECE, seed.size, PIECE):
            data = coming.result()
            coming = pool.submit(read, following)
            yield data
        yield coming.result()


class Verdict(Enum):
    """What is to be done for a chunk."""

    IN_PLACE = "in place"  # nothing
    LOCAL = "local"  # put it together from what is here
    FETCH = "fetch"


class Finder:
    """Looks blocks up; ask it about a chunk when all seeds were scanned."""

    def __init__(self, index: Index, chunks: Chunks, block_size: int) -> None:
        """Build the table.

        Args:
            index: of the new image.
            chunks: what it tells about.
            block_size: in bytes.
        """
        self._index, self.chunks, self._block_size = index, chunks, block_size
        self._seeds: list[Seed] = []
        self._places = array("I", bytes(4 * index.blocks))
        self._slots = int(index.blocks * ROOM) + 1
        self._table = array("I", bytes(4 * self._slots))
        self._in_place = bytearray(index.chunks)
        self._fill_table()

    def _fill_table(self) -> None:
        hashes, table, slots = self._index.hashes, self._table, self._slots
        zero = block_hash(bytes(self._block_size))
        for number in range(self._index.blocks):
            key = bytes(hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES])
            if key == zero:
                self._places[number] = ZERO
                continue
            slot = int.from_bytes(key, "little") % slots
            while (other := table[slot]) and hashes[(other - 1) * HASH_BYTES : other * HASH_BYTES] != key:
                slot = (slot + 1) % slots
            if other:
                self._places[number] = ALIAS + other - 1
            else:
                table[slot] = number + 1

    def keep(self, target: Seed, *, going_on: Callable[[], None]) -> None:
        """Find the chunks that the target holds in their place already (from an install that was interrupted)."""
        for number in range(len(self.chunks)):
            if number % CHUNKS_A_LOOK == 0:
                going_on()
            pieces = [
                target.read(extent.start_block * self._block_size, extent.num_blocks * self._block_size)
                for extent in self.chunks[number].dst_extents
            ]
            self._in_place[number] = chunk_digest(*pieces) == self._index.digest(number)

    def scan(self, seed: Seed, *, going_on: Callable[[], None]) -> None:
        """Hash every block of a seed and note those that are wanted; `going_on` is called at each piece."""
        place = 1 + len(self._seeds)
        self._seeds.append(seed)
        size, places = self._block_size, self._places
        for data in _read_ahead(seed):
            going_on()
            if data == ZERO_PIECE:  # a hole: zeros are wanted from nobody
                place += SEEDS * (PIECE // size)
                continue
            view = memoryview(data)
            for begin in range(0, len(view) - size + 1, size):
                number = self._look_up(block_hash(view[begin : begin + size]))
                if number and not places[number - 1]:
                    places[number - 1] = place
                place += SEEDS

    def _look_up(self, key: bytes) -> int:
        """Return the number, from 1, of the first wanted block with this hash, or 0."""
        hashes, table = self._index.hashes, self._table
        slot = int.from_bytes(key, "little") % self._slots
        while number := table[slot]:
            if hashes[(number - 1) * HASH_BYTES : number * HASH_BYTES] == key:
                return number
            slot = (slot + 1) % self._slots
        return 0

    def settle(self) -> None:
        """Let the table go: no more seeds from here on."""
        self._table = array("I")

    def verdict(self, chunk: int) -> Verdict:
        """Tell what is to be done for a chunk, by its number."""
        if self._in_place[chunk]:
            return Verdict.IN_PLACE
        return Verdict.LOCAL if self._usable(chunk) else Verdict.FETCH

    def digest(self, chunk: int) -> bytes:
        """Return the digest of a chunk."""
        return self._index.digest(chunk)

    def runs(self, chunk: int) -> Iterator[Run]:
        """Yield what a LOCAL chunk is put together from; worked out anew each time, for there may be many."""
        places, size, begin = self._places_of(chunk), self._block_size, 0
        for end in range(1, len(places) + 1):
            step = 0 if places[begin] == ZERO else SEEDS
            if end < len(places) and places[end] == places[begin] + (end - begin) * step:
                continue
            seed, block = (places[begin] - 1) % SEEDS, (places[begin] - 1) // SEEDS
            zero = places[begin] == ZERO
            length = (end - begin) * size
            yield Run(None, 0, length) if zero else Run(self._seeds[seed], block * size, length)
            begin = end

    def _places_of(self, chunk: int) -> list[int]:
        begin, end = self.chunks.starts[chunk : chunk + 2]
        return [self._place(at) for at in range(begin, end)]

    def _place(self, number: int) -> int:
        place = self._places[number]
        return place if place < ALIAS or place == ZERO else self._places[place - ALIAS]

    def _usable(self, chunk: int) -> bool:
        """Tell whether every block is there, and will be when it is its turn: chunks are written front to back."""
        places = self._places_of(chunk)
        if MISSING in places:
            return False
        of_target = [(place - 1) // SEEDS for place in places if place != ZERO and place % SEEDS == 0]
        if not of_target:
            return True
        written = max(extent.start_block + extent.num_blocks for extent in self.chunks[chunk].dst_extents)
        return min(of_target) >= written
