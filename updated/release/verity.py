"""Makes dm-verity hash trees, byte for byte as `veritysetup format` does, and reads their superblocks.

The format is the kernel's (Documentation/admin-guide/device-mapper/verity.rst) and cryptsetup's on-disk header: a block
with the superblock, then the levels of the tree, the top one first. Each block of a level holds the SHA-256 of salt and
block of 128 blocks below it, the lowest level those of the image's blocks. The hash of the top block is the root hash.
Version 1, SHA-256, blocks of 4096 bytes on both sides: what this module makes, and all that it reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

BLOCK = 4096  # bytes, of the image and of the tree
DIGEST = 32  # bytes
PER_BLOCK = BLOCK // DIGEST
MAGIC = b"verity\0\0"
VERSION, TYPE, ALGORITHM = 1, 1, b"sha256"
MOST_SALT = 256  # bytes
# magic, version, hash type, UUID, algorithm, data block size, hash block size, data blocks, salt's size, salt
SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")


class VerityError(ValueError):
    """A superblock that isn't one, or one of a tree that this module doesn't know."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a tree says of itself."""

    data_blocks: int
    salt: bytes
    uuid: bytes  # 16 bytes

    def encode(self) -> bytes:
        """Return the tree's first block."""
        raw = SUPERBLOCK.pack(
            MAGIC, VERSION, TYPE, self.uuid, ALGORITHM, BLOCK, BLOCK, self.data_blocks, len(self.salt), self.salt
        )
        return raw.ljust(BLOCK, b"\0")


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole hash image, superblock included, and its root hash in lower-case hex."""

    data: bytes
    root_hash: str


def parse_superblock(raw: bytes) -> Superblock:
    """Read a hash image's first block.

    Raises:
        VerityError: it has none, or one of a version, an algorithm or a block size other than ours.
    """
    if len(raw) < SUPERBLOCK.size or raw[: len(MAGIC)] != MAGIC:
        raise VerityError("it doesn't begin with a verity superblock")
    _, version, kind, uuid, algorithm, data_size, hash_size, data_blocks, salt_size, salt = SUPERBLOCK.unpack_from(raw)
    name = algorithm.rstrip(b"\0")
    if (version, kind, name, data_size, hash_size) != (VERSION, TYPE, ALGORITHM, BLOCK, BLOCK):
        raise VerityError(
            f"it is of version {version}, type {kind}, {name.decode('ascii', 'replace')!r}, blocks of {data_size} and"
            f" {hash_size} bytes; hosts take version {VERSION}, type {TYPE}, sha256, {BLOCK} and {BLOCK}"
        )
    if salt_size > MOST_SALT:
        raise VerityError(f"its salt of {salt_size} bytes is longer than {MOST_SALT}")
    return Superblock(data_blocks, salt[:salt_size], uuid)


def make_tree(blocks: Iterable[bytes | memoryview], salt: bytes, uuid: bytes) -> Tree:
    """Make the tree over an image.

    Args:
        blocks: the image, each BLOCK bytes, at least one.
        salt: up to MOST_SALT bytes, hashed before each block.
        uuid: 16 bytes.

    Raises:
        ValueError: there is no block.
    """
    level = _digests(blocks, salt)
    data_blocks, levels = len(level) // DIGEST, list[bytes]()
    if not data_blocks:
        raise ValueError("an image without a block has no tree")
    while len(level) > DIGEST:
        padded = level + bytes(-len(level) % BLOCK)
        levels.append(padded)
        level = _digests((padded[at : at + BLOCK] for at in range(0, len(padded), BLOCK)), salt)
    return Tree(b"".join([Superblock(data_blocks, salt, uuid).encode(), *reversed(levels)]), level.hex())


def derived_salt(image_sha256: bytes) -> bytes:
    """Return the salt that two builds of one image share."""
    return sha256(b"verity salt" + image_sha256).digest()


def derived_uuid(image_sha256: bytes) -> bytes:
    """Return the UUID that two builds of one image share, of version 8 (RFC 9562: whatever its maker decides)."""
    raw = bytearray(sha256(b"verity uuid" + image_sha256).digest()[:16])
    raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
    return bytes(raw)


def _digests(blocks: Iterable[bytes | memoryview], salt: bytes) -> bytes:
    salted, found = sha256(salt), bytearray()
    for block in blocks:
        digest = salted.copy()
        digest.update(block)
        found += digest.digest()
    return bytes(found)
