"""The index of a full payload: which 4 KiB blocks its chunks are made of, so that a host fetches what it lacks.

A package of kind `index` in the signed manifest. Little-endian: magic `UPIX`, version, bytes of a block's hash, bytes
of a chunk's digest, 0, block size (u32), chunks (u32), blocks (u32); then all chunks' digests, then all blocks' hashes.
Chunks are the operations with data of the partition that goes into the slot, in order. Both are the first bytes of a
SHA-256: of the chunk as it is written, its last block padded with zeros, and of a block.

A block's hash is short because it only finds candidates; a chunk's digest proves what was put together from them. With
5 and 16 bytes and chunks of 64 KiB that is 6 bytes a block, 0.15 % of the image; larger ones have less.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from updated.errors import ErrorCode, RefusedError
from updated.payload.manifest import REPLACES, SPARSE_HOLE, Operation, Partition, blocks

KIND = "index"
MAGIC = b"UPIX"
VERSION = 1
HASH_BYTES = 5
DIGEST_BYTES = 16
HEAD = struct.Struct("<4sBBBxIII")


@dataclass(frozen=True, slots=True)
class Index:
    """A parsed index; `raw` has the digests and hashes one after the other without gaps."""

    raw: bytes
    first_hash: int  # where the hashes begin
    chunks: int
    blocks: int

    def digest(self, chunk: int) -> bytes:
        """Return the digest of a chunk, by its number."""
        at = HEAD.size + chunk * DIGEST_BYTES
        return self.raw[at : at + DIGEST_BYTES]

    def hash(self, block: int) -> bytes:
        """Return the short hash of a block, by its number; of one behind the last it is none that a block has."""
        at = self.first_hash + block * HASH_BYTES
        return self.raw[at : at + HASH_BYTES]


def block_hash(block: bytes | memoryview) -> bytes:
    """Return the short hash of a block."""
    return sha256(block).digest()[:HASH_BYTES]


def chunk_digest(*pieces: bytes | memoryview) -> bytes:
    """Return the digest of a chunk that is given in pieces."""
    running = sha256()
    for piece in pieces:
        running.update(piece)
    return running.digest()[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class Chunks:
    """The operations of a partition that an index tells about, in its order; 12 bytes of memory for each."""

    operations: Sequence[Operation]
    numbers: array[int]  # among these
    starts: array[int]  # each chunk's first block, counted through all chunks; at last how many there are

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chunk: int) -> Operation:
        return self.operations[self.numbers[chunk]]

    @property
    def blocks(self) -> int:
        """Return how many blocks they have."""
        return self.starts[-1]

    @property
    def index_size(self) -> int:
        """Return how many bytes their index has."""
        return HEAD.size + len(self) * DIGEST_BYTES + self.blocks * HASH_BYTES


def find_chunks(partition: Partition) -> Chunks:
    """Return the operations that an index of this partition tells about."""
    numbers, starts = array("I"), array("Q", [0])
    for number, op in enumerate(partition.operations):
        if op.type in REPLACES and all(extent.start_block != SPARSE_HOLE for extent in op.dst_extents):
            numbers.append(number)
            starts.append(starts[-1] + blocks(op.dst_extents))
    return Chunks(partition.operations, numbers, starts)


def describe_chunk(chunk: bytes | memoryview, block_size: int) -> tuple[bytes, bytes]:
    """Return a chunk's digest and its blocks' hashes; the chunk is padded to whole blocks already."""
    view = memoryview(chunk)
    hashes = (block_hash(view[at : at + block_size]) for at in range(0, len(view), block_size))
    return chunk_digest(view), b"".join(hashes)


def encode_index(described: Iterable[tuple[bytes, bytes]], block_size: int) -> bytes:
    """Return the index of chunks as `describe_chunk` describes them, in order."""
    digests, hashes = bytearray(), bytearray()
    for digest, blocks_of_chunk in described:
        digests += digest
        hashes += blocks_of_chunk
    counts = len(digests) // DIGEST_BYTES, len(hashes) // HASH_BYTES
    return HEAD.pack(MAGIC, VERSION, HASH_BYTES, DIGEST_BYTES, block_size, *counts) + digests + hashes


def parse_index(raw: bytes, of: Chunks, block_size: int) -> Index:
    """Read the index of these chunks.

    Raises:
        RefusedError: INDEX_INVALID; it is none, or one of another partition.
    """
    if len(raw) < HEAD.size:
        raise _invalid(f"it has {len(raw)} bytes")
    magic, version, hash_bytes, digest_bytes, size, chunks, count = HEAD.unpack_from(raw)
    if (magic, version, hash_bytes, digest_bytes) != (MAGIC, VERSION, HASH_BYTES, DIGEST_BYTES):
        raise _invalid("its version is another one")
    wanted = len(of), of.blocks
    if size != block_size or (chunks, count) != wanted:
        raise _invalid(f"it tells of {chunks} chunks with {count} blocks of {size}, the payload has {wanted}")
    middle = HEAD.size + chunks * DIGEST_BYTES
    if len(raw) != middle + count * HASH_BYTES:
        raise _invalid(f"it has {len(raw)} bytes, not {middle + count * HASH_BYTES}")
    return Index(raw, middle, chunks, count)


def _invalid(what: str) -> RefusedError:
    return RefusedError(
        ErrorCode.INDEX_INVALID,
        f"the payload's index can't be used: {what}",
        hint="The release can still be installed, with its whole download; ask whoever built it.",
    )
