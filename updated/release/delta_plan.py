"""Decides which blocks of a new image are copied from the old one, which are made by a patch of what, which are new.

Equal blocks are copied from wherever they are. A file that changed is patched from the file of the same path, or of the
same path but for its numbers (`/lib/modules/6.1.0-9/x.ko`); small ones are taken together, large ones cut, so that no
operation needs much memory. What belongs to no file is patched from the same place in the old image.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from updated.release.chunks import BLOCK
from updated.release.ext4 import FileBlocks, file_blocks

READ_PIECE = 1024 * 1024
HASH_BYTES = 16
NEW, ZERO = -1, -2  # instead of the number of an old block
GROUP_BLOCKS = 256  # a patch makes about 1 MiB
FRESH_BLOCKS = 512  # what is new is compressed in pieces of 2 MiB
COPY_BLOCKS = 1024  # of one copying operation
MARGIN_BLOCKS = 256  # of a large old file that a patch may look at, before and behind the same place
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Piece:
    """Blocks that one operation writes, and those of the old image that it may read, each in order."""

    new: tuple[int, ...]
    old: tuple[int, ...] = ()


@dataclass(slots=True)
class DeltaPlan:
    """Every block of the new image, once; sizes in bytes."""

    new_size: int
    new_sha256: bytes
    old_size: int
    old_sha256: bytes
    copies: list[Piece] = field(default_factory=list)
    zeros: list[Piece] = field(default_factory=list)
    changed: list[Piece] = field(default_factory=list)


@dataclass(slots=True)
class _Hashed:
    """An image's blocks: 16 bytes of hash each."""

    size: int
    digest: bytes
    hashes: bytearray

    def of(self, block: int) -> bytes:
        return bytes(self.hashes[block * HASH_BYTES : (block + 1) * HASH_BYTES])


def make_plan(old: Path, new: Path) -> DeltaPlan:
    """Compare two images.

    Raises:
        OSError: one can't be read.
    """
    before, after = _hash(old), _hash(new)
    plan = DeltaPlan(after.size, after.digest, before.size, before.digest)
    sources = _find(before, after)
    plan.copies = list(_copies(sources))
    plan.zeros = [Piece(run) for run in _runs(at for at, source in enumerate(sources) if source == ZERO)]
    old_blocks = len(before.hashes) // HASH_BYTES
    plan.changed = list(_changed(sources, list(file_blocks(old, BLOCK)), file_blocks(new, BLOCK), old_blocks))
    return plan


def _hash(image: Path) -> _Hashed:
    whole, hashes, size = sha256(), bytearray(), 0
    with image.open("rb") as file:
        while data := file.read(READ_PIECE):
            whole.update(data)
            size += len(data)
            view = memoryview(data + bytes(-len(data) % BLOCK))
            for at in range(0, len(view), BLOCK):
                hashes += sha256(view[at : at + BLOCK]).digest()[:HASH_BYTES]
    return _Hashed(size, whole.digest(), hashes)


def _find(before: _Hashed, after: _Hashed) -> array[int]:
    """Return for each new block the old one that equals it, neighbours to neighbours where that can be."""
    whole_blocks = before.size // BLOCK
    places: dict[bytes, int] = {}
    for block in range(whole_blocks):
        places.setdefault(before.of(block), block)
    zero = sha256(bytes(BLOCK)).digest()[:HASH_BYTES]
    sources, last = array("q"), NEW
    for block in range(len(after.hashes) // HASH_BYTES):
        key = after.of(block)
        if key == zero:
            sources.append(ZERO)
            continue
        follows = 0 <= last < whole_blocks - 1 and before.of(last + 1) == key
        last = last + 1 if follows else places.get(key, NEW)
        sources.append(last)
    return sources


def _copies(sources: Sequence[int]) -> Iterator[Piece]:
    new = [at for at, source in enumerate(sources) if source >= 0]
    for begin in range(0, len(new), COPY_BLOCKS):
        part = tuple(new[begin : begin + COPY_BLOCKS])
        yield Piece(part, tuple(sources[at] for at in part))


def _runs(blocks: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """Yield neighbouring blocks together."""
    run: list[int] = []
    for block in blocks:
        if run and block != run[-1] + 1:
            yield tuple(run)
            run = []
        run.append(block)
    if run:
        yield tuple(run)


def _changed(
    sources: Sequence[int], old: Sequence[FileBlocks], new: Iterable[FileBlocks], old_blocks: int
) -> Iterator[Piece]:
    """Yield what is to be patched or compressed, files first."""
    left = {at for at, source in enumerate(sources) if source == NEW}
    namesakes = _Namesakes(old)
    patched, fresh = _Gatherer(GROUP_BLOCKS), _Gatherer(FRESH_BLOCKS)
    for file in sorted(new, key=lambda file: file.path):
        wanted = [(index, block) for index, block in enumerate(file.blocks) if block in left]
        left.difference_update(block for _, block in wanted)
        match = namesakes.of(file.path)
        for begin in range(0, len(wanted), GROUP_BLOCKS):
            part = wanted[begin : begin + GROUP_BLOCKS]
            blocks = tuple(block for _, block in part)
            if match is None:
                yield from fresh.add(blocks, ())
            else:
                around = _around(match.blocks, part[0][0], part[-1][0], len(file.blocks))
                # an image that was cut off has files beyond its end
                yield from patched.add(blocks, [block for block in around if block < old_blocks])
    yield from patched.rest()
    yield from fresh.rest()
    for run in _runs(sorted(left)):
        for begin in range(0, len(run), GROUP_BLOCKS):
            piece = run[begin : begin + GROUP_BLOCKS]
            yield Piece(piece, tuple(block for block in piece if block < old_blocks))


def _around(blocks: Sequence[int], first: int, last: int, length: int) -> tuple[int, ...]:
    """Return the part of an old file that a part of the new one comes from, in all likelihood."""
    scale = len(blocks) / max(length, 1)
    begin = max(0, int(first * scale) - MARGIN_BLOCKS)
    return tuple(blocks[begin : int((last + 1) * scale) + 1 + MARGIN_BLOCKS])


class _Namesakes:
    """Finds the old file that a new one came from."""

    def __init__(self, files: Sequence[FileBlocks]) -> None:
        self._exact = {file.path: file for file in files if file.blocks}
        self._alike = {NUMBER.sub("#", path): file for path, file in sorted(self._exact.items())}

    def of(self, path: str) -> FileBlocks | None:
        return self._exact.get(path) or self._alike.get(NUMBER.sub("#", path))


class _Gatherer:
    """Takes small files together."""

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._new: list[int] = []
        self._old: dict[int, None] = {}  # ordered, each block once

    def add(self, new: Sequence[int], old: Sequence[int]) -> Iterator[Piece]:
        """Take blocks in; yield what was there before once it would become too much."""
        if self._new and len(self._new) + len(new) > self._enough:
            yield from self.rest()
        self._new.extend(new)
        self._old.update(dict.fromkeys(old))

    def rest(self) -> Iterator[Piece]:
        """Yield what is left."""
        if self._new:
            yield Piece(tuple(self._new), tuple(self._old))
        self._new, self._old = [], {}
