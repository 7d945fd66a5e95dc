"""Finding blocks, against a plain search: nothing that the running slot has is fetched, and nothing comes out wrong."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.campaign import scale
from updated.install import seeds
from updated.install.reuse import Finder, Verdict
from updated.payload.index import describe_chunk, encode_index, find_chunks, parse_index
from updated.payload.manifest import Extent, Image, Operation, OpType, Partition

BLOCK = 4096
ZERO = bytes(BLOCK)
KINDS = [ZERO, *(bytes([kind]) * BLOCK for kind in range(1, 13))]  # few, so that they recur in many orders
PIECE = 5 * BLOCK  # of a seed: chunks and runs go beyond it


@dataclass
class Slot:
    """A seed in memory."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]

    def read_back(self, offset: int, into: memoryview) -> None:
        into[:] = self.content[offset : offset + len(into)]


contents = st.lists(st.sampled_from(KINDS), min_size=1, max_size=24)
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=8)


stretches = st.lists(st.tuples(st.integers(0, 24), st.integers(1, 12)), min_size=1, max_size=4)


@given(new=contents, sizes=lengths, kept=stretches, odd=st.lists(st.sampled_from(KINDS), max_size=3), target=contents)
@settings(max_examples=scale(600, 5000), deadline=None)
def test_what_is_found_is_right_and_nothing_is_overlooked(
    new: list[bytes], sizes: list[int], kept: list[tuple[int, int]], odd: list[bytes], target: list[bytes]
) -> None:
    """A chunk whose blocks the running slot has all is put together; whatever is put together is the chunk."""
    running = odd + [block for begin, count in kept for block in new[begin : begin + count]]  # alike, as releases are
    chunks = cut(new, sizes)
    behind = Slot(b"".join(target))
    finder = scanned(chunks, Slot(b"".join(running) or ZERO), behind)
    at = 0
    for number, chunk in enumerate(chunks):
        at += len(chunk)
        if finder.verdict(number) is Verdict.LOCAL:
            runs = list(finder.runs(number))
            assert b"".join(run.read() for run in runs) == b"".join(chunk)
            assert all(run.offset >= at * BLOCK for run in runs if run.seed is behind)  # not overwritten by then
        else:
            assert not {*chunk} <= {*running, ZERO}


def cut(blocks: list[bytes], sizes: list[int]) -> list[list[bytes]]:
    """Return the blocks in chunks of these sizes, the last of them as long as it must be."""
    chunks, at = [], 0
    for size in sizes:
        if at < len(blocks):
            chunks.append(blocks[at : at + size])
            at += size
    return [*chunks, blocks[at:]] if at < len(blocks) else chunks


def scanned(chunks: list[list[bytes]], running: Slot, target: Slot) -> Finder:
    """Return a finder that has looked through both."""
    operations, at = [], 0
    for chunk in chunks:
        extent, length = Extent(at, len(chunk)), len(chunk) * BLOCK
        operations.append(Operation(OpType.REPLACE, at * BLOCK, length, b"h" * 32, (), 0, (extent,), length))
        at += len(chunk)
    found = find_chunks(Partition("root", tuple(operations), None, Image(at * BLOCK, b"i" * 32)))
    raw = encode_index((describe_chunk(b"".join(chunk), BLOCK) for chunk in chunks), BLOCK)
    finder = Finder(parse_index(raw, found, BLOCK), found, BLOCK)
    with patch.object(seeds, "PIECE", PIECE), patch.object(seeds, "ZERO_PIECE", bytes(PIECE)):
        for seed in (running, target):
            finder.scan(seed, going_on=lambda: None)
    finder.settle()
    return finder
