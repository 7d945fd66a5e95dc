"""What a manifest says, as values: images, partitions, operations, identity.

Names and numbers are update_engine's. `parse_manifest` (in parse.py, offered here too) makes them from bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

SPARSE_HOLE = 2**64 - 1  # as a start block: bytes that are consumed, or read as zeros, without a place on the medium


class OpType(IntEnum):
    """Operations; REPLACE_ZSTD's number is this product's choice among the free ones."""

    REPLACE = 0
    REPLACE_BZ = 1
    MOVE = 2
    BSDIFF = 3
    SOURCE_COPY = 4
    SOURCE_BSDIFF = 5
    ZERO = 6
    DISCARD = 7
    REPLACE_XZ = 8
    PUFFDIFF = 9
    BROTLI_BSDIFF = 10
    ZUCCHINI = 11
    LZ4DIFF_BSDIFF = 12
    LZ4DIFF_PUFFDIFF = 13
    REPLACE_ZSTD = 14


REPLACES = frozenset({OpType.REPLACE, OpType.REPLACE_BZ, OpType.REPLACE_XZ, OpType.REPLACE_ZSTD})
ZEROES = frozenset({OpType.ZERO, OpType.DISCARD})
PATCHES = frozenset({OpType.BSDIFF, OpType.SOURCE_BSDIFF, OpType.BROTLI_BSDIFF})
FROM_SOURCE = frozenset({OpType.SOURCE_COPY, OpType.SOURCE_BSDIFF, OpType.BROTLI_BSDIFF})  # read the running slot
IN_PLACE = frozenset({OpType.MOVE, OpType.BSDIFF})  # read the partition that they write
# what version 1 knows; of the others ZERO would let an unsigned manifest of a few bytes fill a file system
OF_V1 = frozenset({OpType.REPLACE, OpType.REPLACE_BZ}) | IN_PLACE
SUPPORTED = REPLACES | ZEROES | FROM_SOURCE | IN_PLACE


class Extent(NamedTuple):  # tuples, for ten thousands of them are made, several times
    """A run of blocks."""

    start_block: int
    num_blocks: int


class Operation(NamedTuple):
    """One step; lengths in bytes, `data_offset` from the payload's data start, hashes SHA-256 or empty."""

    type: OpType
    data_offset: int
    data_length: int
    data_sha256: bytes
    src_extents: tuple[Extent, ...]
    src_length: int  # the extents' size where the payload leaves it out
    dst_extents: tuple[Extent, ...]
    dst_length: int  # likewise
    src_sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class Image:
    """A whole image: size in bytes, SHA-256."""

    size: int
    sha256: bytes

    def blocks(self, block_size: int) -> int:
        """Return how many blocks it takes; the last one may be padded."""
        return -(-self.size // block_size)


@dataclass(frozen=True, slots=True)
class Partition:
    """What is written as one: a partition, or a file (v1's kernel procedure)."""

    name: str
    operations: Sequence[Operation]
    old: Image | None
    new: Image | None
    run_postinstall: bool = False
    is_file: bool = False
    skipped: bool = False  # v1's PCR policy: its bytes are in the payload and nothing is done with them
    kinds: frozenset[OpType] = frozenset()  # of its operations
    ascending: bool = False  # whether it is written front to back


@dataclass(frozen=True, slots=True)
class Package:
    """A further file of the release: size in bytes, SHA-256."""

    name: str
    size: int
    sha256: bytes
    kind: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Which release this is, for whom, until when; signed with the manifest."""

    product: str
    channels: tuple[str, ...]
    version: str
    rollback_index: int
    not_after: int | None = None  # seconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest."""

    major: int
    minor: int
    block_size: int
    partitions: tuple[Partition, ...]
    identity: Identity | None
    packages: tuple[Package, ...]
    data_length: int  # of all operations, in bytes; their data are contiguous
    signatures_offset: int  # from the payload's data start
    signatures_size: int  # 0: unsigned
    max_timestamp: int | None = None
    root_hash: str | None = None  # of the verity tree that comes along, 64 digits of lower-case hex

    def changes_in_place(self, partition: Partition) -> bool:
        """Tell whether a partition is made of its old image: blocks that stay where they are may have no operation.

        A delta of the slot may leave all of them; a kernel, or an image without an old one, says so by its operations.
        """
        if partition.is_file or partition.old is None:
            return bool(partition.kinds & IN_PLACE)
        return any(part.kinds & IN_PLACE for part in self.partitions)


def blocks(extents: tuple[Extent, ...]) -> int:
    """Return how many blocks the extents cover, holes included."""
    if len(extents) == 1:  # as nearly always
        return extents[0][1]
    return sum([extent.num_blocks for extent in extents])
