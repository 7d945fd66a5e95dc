"""Which blocks of an ext4 image belong to which file: just enough of the format to walk it, and to write nothing.

The layout is the kernel's (Documentation/filesystems/ext4). What isn't understood is left out: a payload is only larger
for it.
"""

from __future__ import annotations

import mmap
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUPERBLOCK_AT = SUPERBLOCK_BYTES = 1024
SUPER_MAGIC = 0xEF53
EXTENT_MAGIC = 0xF30A
ROOT_INODE = 2
HAS_EXTENTS = 0x80000  # an inode's flag
FEATURE_64BIT = 0x80  # an incompatible feature: group descriptors with high halves
UNWRITTEN = 32768  # an extent's length above it: allocated, reads as zeros
LARGEST_LOG_SIZE = 6  # of a block, in bits above 10: 64 KiB
DEEPEST_TREE = 5
DEEPEST_PATH = 64
INODE_BLOCKS = 60  # bytes of an inode that hold the root of its extent tree


class NotExt4Error(Exception):
    """The image isn't ext4, or isn't whole."""


@dataclass(frozen=True, slots=True)
class FileBlocks:
    """A file or directory: its path, and the numbers of its blocks in the order of its content, holes left out."""

    path: str
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Inode:
    mode: int
    size: int
    flags: int
    tree: bytes


class _Ext4:
    """A mapped image."""

    def __init__(self, data: mmap.mmap, block: int) -> None:
        self._data = data
        head = data[SUPERBLOCK_AT : SUPERBLOCK_AT + SUPERBLOCK_BYTES]
        if len(head) < SUPERBLOCK_BYTES or struct.unpack_from("<H", head, 0x38)[0] != SUPER_MAGIC:
            raise NotExt4Error("no superblock")
        log_size = struct.unpack_from("<I", head, 0x18)[0]
        if log_size > LARGEST_LOG_SIZE:
            raise NotExt4Error(f"its blocks have 1024 << {log_size} bytes")
        self._block = 1024 << log_size
        if self._block != block:
            raise NotExt4Error(f"its blocks have {self._block} bytes")
        self._inodes_per_group = struct.unpack_from("<I", head, 0x28)[0]
        self._inode_size = struct.unpack_from("<H", head, 0x58)[0]
        wide = struct.unpack_from("<I", head, 0x60)[0] & FEATURE_64BIT
        self._descriptor_size = struct.unpack_from("<H", head, 0xFE)[0] if wide else 32
        self._descriptors_at = (struct.unpack_from("<I", head, 0x14)[0] + 1) * self._block
        self._wide = bool(wide)
        self._walked: set[int] = set()  # inodes of directories; only a damaged image has one in two places

    def _inode(self, number: int) -> _Inode:
        group, index = divmod(number - 1, self._inodes_per_group)
        at = self._descriptors_at + group * self._descriptor_size
        table = struct.unpack_from("<I", self._data, at + 8)[0]
        if self._wide:
            table |= struct.unpack_from("<I", self._data, at + 0x28)[0] << 32
        at = table * self._block + index * self._inode_size
        mode, low = struct.unpack_from("<HxxI", self._data, at)
        flags = struct.unpack_from("<I", self._data, at + 0x20)[0]
        high = struct.unpack_from("<I", self._data, at + 0x6C)[0]
        return _Inode(mode, low | high << 32, flags, self._data[at + 0x28 : at + 0x28 + INODE_BLOCKS])

    def _blocks(self, node: bytes, depth_left: int = DEEPEST_TREE) -> Iterator[int]:
        """Yield the block numbers below a node of an extent tree."""
        magic, entries, _, depth = struct.unpack_from("<HHHH", node)
        if magic != EXTENT_MAGIC or not depth_left:
            raise NotExt4Error("an extent tree is damaged")
        for at in range(12, 12 + entries * 12, 12):
            if depth:
                low, high = struct.unpack_from("<IH", node, at + 4)
                begin = (low | high << 32) * self._block
                yield from self._blocks(self._data[begin : begin + self._block], depth_left - 1)
            else:
                length, high, low = struct.unpack_from("<HHI", node, at + 4)
                if length <= UNWRITTEN:
                    yield from range(low | high << 32, (low | high << 32) + length)

    def walk(self, number: int = ROOT_INODE, path: str = "", depth_left: int = DEEPEST_PATH) -> Iterator[FileBlocks]:
        """Yield everything below a directory, itself first; one that was walked already isn't again."""
        inode = self._inode(number)
        if not inode.flags & HAS_EXTENTS or not depth_left or number in self._walked:
            return
        if stat.S_ISDIR(inode.mode):
            self._walked.add(number)
        blocks = tuple(self._blocks(inode.tree))
        yield FileBlocks(path, blocks)
        if not stat.S_ISDIR(inode.mode):
            return
        for block in blocks:
            for child, kind, name in self._entries(block):
                if kind == stat.S_IFDIR >> 12 or kind == stat.S_IFREG >> 12:
                    yield from self.walk(child, f"{path}/{name}", depth_left - 1)

    def _entries(self, block: int) -> Iterator[tuple[int, int, str]]:
        """Yield inode, type and name of each entry of a directory's block."""
        at, end = block * self._block, (block + 1) * self._block
        while at + 8 <= end:
            inode, length, name_length, kind = struct.unpack_from("<IHBB", self._data, at)
            if length < 8:  # noqa: PLR2004 - the head of an entry: what is shorter is none
                raise NotExt4Error("a directory is damaged")
            name = self._data[at + 8 : at + 8 + name_length].decode("utf-8", errors="surrogateescape")
            if inode and name not in (".", ".."):
                yield inode, {1: stat.S_IFREG >> 12, 2: stat.S_IFDIR >> 12}.get(kind, 0), name
            at += length


def file_blocks(image: Path, block_size: int) -> Iterator[FileBlocks]:
    """Yield the files and directories of an ext4 image, up to what can't be read; none when it is something else.

    Raises:
        OSError: the image can't be read.
    """
    with image.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from _Ext4(data, block_size).walk()
        except (NotExt4Error, struct.error, ValueError, IndexError, ZeroDivisionError):
            return  # the payload is made without knowing of more files
