"""Finds chunks of a new image among the blocks that the host has already: in the running slot and in the target.

The index gives 5 bytes of hash for each block of the new image. They are put in a table, and a seed's blocks are hashed
and looked up; a chunk of which all blocks were found can be put together from them. What follows a block in the new
image mostly follows it in a seed, too: where a chunk is to begin, it is tried whole, at a third of the cost of looking
for its blocks. Memory: 5.6 bytes a block for the table and 4 for the places, beside the 6 of the index itself.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from enum import Enum

from updated.install.seeds import Run, Seed, look_through
from updated.payload.index import Chunks, Index, block_hash, chunk_digest

CHUNKS_A_LOOK = 16  # about a piece
ROOM = 1.4  # table entries for each block: fuller is slower, emptier is larger
MISSING, ZERO = 0, 0xFFFFFFFF  # places; up to ALIAS one is a block of a seed
ALIAS = 0x80000000  # from here on: the same as the block with that number, counted from here
SEEDS = 2  # they are interleaved in the numbers of places: running slot, target
NOWHERE = -1


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
        self._of_target = True  # whether any block is to come from the target
        self._fill_table()

    def _fill_table(self) -> None:
        hash_of, table, slots = self._index.hash, self._table, self._slots
        zero = block_hash(bytes(self._block_size))
        for block in range(self._index.blocks):
            key = hash_of(block)
            if key == zero:
                self._places[block] = ZERO
                continue
            slot = int.from_bytes(key, "little") % slots
            while other := table[slot]:
                if hash_of(other - 1) == key:
                    self._places[block] = ALIAS + other - 1
                    break
                slot = (slot + 1) % slots
            else:
                table[slot] = block + 1

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
        """Look for wanted blocks in a seed and note where they are; `going_on` is called at each piece.

        Raises:
            LocalError: READ_BACK; what was found so far counts.
        """
        first = 1 + len(self._seeds)
        self._seeds.append(seed)

        def look(offset: int, piece: memoryview) -> None:
            self._scan_piece(piece, first + SEEDS * (offset // self._block_size))

        look_through(seed, look, going_on)

    def _scan_piece(self, piece: memoryview, place: int) -> None:
        """Look at a piece's blocks; `place` is of its first. Several threads do so, and any one's find is as good."""
        size, starts, hash_of = self._block_size, self.chunks.starts, self._index.hash
        follow, chunk = NOWHERE, 0  # what comes next in the new image, if it goes on as here; the next chunk there
        at, end = 0, len(piece) // size * size
        while at < end:
            if follow == starts[chunk] and (count := self._try_chunk(chunk, piece[at:end], place)):
                chunk, follow = chunk + 1, follow + count
                at, place = at + count * size, place + count * SEEDS
                continue
            key = block_hash(piece[at : at + size])
            block = follow if follow != NOWHERE and hash_of(follow) == key else self._look_up(key)
            if block != NOWHERE:
                self._note(block, place)
                if block != follow:
                    chunk = bisect_left(starts, block + 1)
                elif block == starts[chunk]:
                    chunk += 1
                follow = block + 1
            else:
                follow = NOWHERE
            at, place = at + size, place + SEEDS

    def _try_chunk(self, chunk: int, rest: memoryview, place: int) -> int:
        """See whether a seed holds a whole chunk here; return how many blocks that are, or 0."""
        if chunk == self._index.chunks:
            return 0
        begin, end = self.chunks.starts[chunk : chunk + 2]
        length = (end - begin) * self._block_size
        if length > len(rest) or chunk_digest(rest[:length]) != self._index.digest(chunk):
            return 0
        places = self._places
        if len(self._seeds) > 1 or max(places[begin:end]) >= ALIAS:
            for number in range(end - begin):
                self._note(begin + number, place + number * SEEDS)
        if len(self._seeds) == 1:  # in one run, zeros too; the running slot's blocks stay what they are
            places[begin:end] = array("I", range(place, place + SEEDS * (end - begin), SEEDS))
        return end - begin

    def _note(self, block: int, place: int) -> None:
        """Take in where a block is, unless one like it was found before."""
        known = self._places[block]
        if ALIAS <= known < ZERO:
            block = known - ALIAS
            known = self._places[block]
        if known == MISSING:
            self._places[block] = place

    def _look_up(self, key: bytes) -> int:
        """Return the number of the first wanted block with this hash, or NOWHERE."""
        hash_of, table = self._index.hash, self._table
        slot = int.from_bytes(key, "little") % self._slots
        while number := table[slot]:
            if hash_of(number - 1) == key:
                return number - 1
            slot = (slot + 1) % self._slots
        return NOWHERE

    def settle(self) -> None:
        """Let the table go: no more seeds from here on."""
        self._table = array("I")
        self._of_target = any(MISSING < place < ALIAS and place % SEEDS == 0 for place in self._places)

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
        while begin < len(places):
            first, end = places[begin], begin + 1
            step = 0 if first == ZERO else SEEDS
            while end < len(places) and places[end] == first + (end - begin) * step:
                end += 1
            seed, block = (first - 1) % SEEDS, (first - 1) // SEEDS
            length = (end - begin) * size
            yield Run(None, 0, length) if first == ZERO else Run(self._seeds[seed], block * size, length)
            begin = end

    def _places_of(self, chunk: int) -> list[int]:
        begin, end = self.chunks.starts[chunk : chunk + 2]
        places = self._places[begin:end].tolist()
        if max(places) < ALIAS:  # as nearly always
            return places
        return [self._places[place - ALIAS] if ALIAS <= place < ZERO else place for place in places]

    def _usable(self, chunk: int) -> bool:
        """Tell whether every block is there, and will be when it is its turn: nothing behind it is written before."""
        places = self._places_of(chunk)
        if MISSING in places:
            return False
        if not self._of_target:
            return True
        of_target = [(place - 1) // SEEDS for place in places if place != ZERO and place % SEEDS == 0]
        if not of_target:
            return True
        written = max(extent.start_block + extent.num_blocks for extent in self.chunks[chunk].dst_extents)
        return min(of_target) >= written
