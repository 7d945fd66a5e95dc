"""The index of a full payload: which 4 KiB blocks its chunks are made of, so that a host fetches what it lacks.

A package of kind `index` in the signed manifest. Little-endian: magic `UPIX`, version, bytes of a block's hash, bytes
of a chunk's digest, 0, block size (u32), chunks (u32), blocks (u32); then all chunks' digests, then all blocks' hashes.
Chunks are the operations with data of the partition that goes into the slot, in order. Both are the first bytes of a
SHA-256: of the chunk as it is written, its last block padded with zeros, and of a block.

A block's hash is short because it only finds candidates; a chunk's digest proves what was put together from them. With
5 and 16 bytes and chunks of 64 KiB that is 6 bytes a block, 0.15 % of the image.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
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
    """A parsed index; `digests` and `hashes` are one after the other without gaps."""

    digests: memoryview
    hashes: memoryview
    chunks: int
    blocks: int

    def digest(self, chunk: int) -> bytes:
        """Return the digest of a chunk, by its number."""
        return bytes(self.digests[chunk * DIGEST_BYTES : (chunk + 1) * DIGEST_BYTES])


def block_hash(block: bytes | memoryview) -> bytes:
    """Return the short hash of a block."""
    return sha256(block).digest()[:HASH_BYTES]


def chunk_digest(*pieces: bytes | memoryview) -> bytes:
    """Return the digest of a chunk that is given in pieces."""
    running = sha256()
    for piece in pieces:
        running.update(piece)
    return running.digest()[:DIGEST_BYTES]


def chunk_operations(partition: Partition) -> Iterator[Operation]:
    """Yield the operations that an index tells about, in its order."""
    for op in partition.operations:
        if op.type in REPLACES and all(extent.start_block != SPARSE_HOLE for extent in op.dst_extents):
            yield op


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


def index_size(partition: Partition) -> int:
    """Return how many bytes the index of a partition has."""
    operations = list(chunk_operations(partition))
    count = sum(blocks(op.dst_extents) for op in operations)
    return HEAD.size + len(operations) * DIGEST_BYTES + count * HASH_BYTES


def parse_index(raw: bytes, partition: Partition, block_size: int) -> Index:
    """Read the index of a partition.

    Raises:
        RefusedError: INDEX_INVALID; it is none, or one of another partition.
    """
    if len(raw) < HEAD.size:
        raise _invalid(f"it has {len(raw)} bytes")
    magic, version, hash_bytes, digest_bytes, size, chunks, count = HEAD.unpack_from(raw)
    if (magic, version, hash_bytes, digest_bytes) != (MAGIC, VERSION, HASH_BYTES, DIGEST_BYTES):
        raise _invalid("its version is another one")
    operations = list(chunk_operations(partition))
    wanted = len(operations), sum(blocks(op.dst_extents) for op in operations)
    if size != block_size or (chunks, count) != wanted:
        raise _invalid(f"it tells of {chunks} chunks with {count} blocks of {size}, the payload has {wanted}")
    middle = HEAD.size + chunks * DIGEST_BYTES
    if len(raw) != middle + count * HASH_BYTES:
        raise _invalid(f"it has {len(raw)} bytes, not {middle + count * HASH_BYTES}")
    view = memoryview(raw)
    return Index(view[HEAD.size : middle], view[middle:], chunks, count)


def _invalid(what: str) -> RefusedError:
    return RefusedError(
        ErrorCode.INDEX_INVALID,
        f"the payload's index can't be used: {what}",
        hint="The release can still be installed, with its whole download; ask whoever built it.",
    )
