"""GUID partition tables as bytes: read both copies, change an entry's attributes, write both copies (pure).

Layout after the UEFI specification (2.10, section 5.3). The attributes' upper bits are ChromeOS's and CoreOS's:
priority 48-51, tries left 52-55, successful 56.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass, replace

from updated.errors import ErrorCode, LocalError

SIGNATURE = b"EFI PART"
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
HEADER_SIZE = HEADER.size  # 92
ENTRY = struct.Struct("<16s16sQQQ72s")
SECTOR_SIZES = (512, 4096)
MAX_ENTRIES, MAX_ENTRY_SIZE = 1024, 4096
UNUSED = bytes(16)  # the type of an entry that isn't in use
COREOS_ROOTFS = "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6"

PRIORITY_SHIFT, TRIES_SHIFT, NIBBLE = 48, 52, 0xF
SUCCESSFUL_BIT = 1 << 56


@dataclass(frozen=True, slots=True)
class Entry:
    """One partition; `raw` is its whole entry, of which only the attributes are ever changed."""

    index: int
    raw: bytes

    @property
    def type_guid(self) -> str:
        """The type, lower case; all zeros when the entry is unused."""
        return str(uuid.UUID(bytes_le=self.raw[:16]))

    @property
    def guid(self) -> str:
        """The partition's own GUID: PARTUUID, lower case."""
        return str(uuid.UUID(bytes_le=self.raw[16:32]))

    @property
    def first_lba(self) -> int:
        """The first sector."""
        return int.from_bytes(self.raw[32:40], "little")

    @property
    def last_lba(self) -> int:
        """The last sector, inclusive."""
        return int.from_bytes(self.raw[40:48], "little")

    @property
    def attributes(self) -> int:
        """All 64 attribute bits."""
        return int.from_bytes(self.raw[48:56], "little")

    @property
    def label(self) -> str:
        """The name up to the first NUL, for garbage may follow it."""
        return self.raw[56:128].decode("utf-16-le", errors="replace").split("\0", 1)[0]

    def overlaps(self, other: Entry) -> bool:
        """Tell whether two partitions share a sector."""
        return self.first_lba <= other.last_lba and other.first_lba <= self.last_lba

    def with_attributes(self, attributes: int) -> Entry:
        """Return the entry with other attributes."""
        return replace(self, raw=self.raw[:48] + attributes.to_bytes(8, "little") + self.raw[56:])


def priority_of(attributes: int) -> int:
    """Return the priority, 0 to 15; 0 never boots."""
    return attributes >> PRIORITY_SHIFT & NIBBLE


def tries_of(attributes: int) -> int:
    """Return the tries left, 0 to 15."""
    return attributes >> TRIES_SHIFT & NIBBLE


def successful_of(attributes: int) -> bool:
    """Tell whether the slot booted well before."""
    return bool(attributes & SUCCESSFUL_BIT)


def set_boot_bits(attributes: int, *, priority: int, tries: int, successful: bool) -> int:
    """Return the attributes with the three boot fields replaced and all other bits kept."""
    if not (0 <= priority <= NIBBLE and 0 <= tries <= NIBBLE):
        raise ValueError(f"priority {priority} and tries {tries} must fit in four bits")
    cleared = attributes & ~(NIBBLE << PRIORITY_SHIFT | NIBBLE << TRIES_SHIFT | SUCCESSFUL_BIT)
    return cleared | priority << PRIORITY_SHIFT | tries << TRIES_SHIFT | (SUCCESSFUL_BIT if successful else 0)


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header; `tail` is what a longer header has after the usual 92 bytes, kept as it is."""

    revision: int
    my_lba: int
    alternate_lba: int
    first_usable: int
    last_usable: int
    disk_guid: bytes
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int
    tail: bytes = b""

    @property
    def entries_bytes(self) -> int:
        """Size of the whole entry array."""
        return self.entry_count * self.entry_size


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table: the entries, and the header they came with."""

    header: Header
    entries: tuple[Entry, ...]
    sector_size: int

    def partitions(self) -> tuple[Entry, ...]:
        """Return the entries in use."""
        return tuple(entry for entry in self.entries if entry.raw[:16] != UNUSED)

    def changed(self, entry: Entry) -> Table:
        """Return the table with one entry replaced."""
        return replace(self, entries=tuple(entry if old.index == entry.index else old for old in self.entries))


def parse_header(sector: bytes, lba: int) -> Header:
    """Read and check a header.

    Raises:
        ValueError: no signature, a wrong checksum, or fields that can't be.
    """
    if len(sector) < HEADER_SIZE:
        raise ValueError("it is cut off")
    fields = HEADER.unpack_from(sector)
    signature, revision, size, crc, _reserved, my_lba, alternate, first, last, guid = fields[:10]
    entries_lba, count, entry_size, entries_crc = fields[10:]
    if signature != SIGNATURE:
        raise ValueError("it has no signature")
    if not HEADER_SIZE <= size <= len(sector):
        raise ValueError(f"its size is {size}")
    if zlib.crc32(sector[:16] + bytes(4) + sector[20:size]) != crc:
        raise ValueError("its checksum is wrong")
    if my_lba != lba:
        raise ValueError(f"it says that it is at {my_lba}, not {lba}")
    if entry_size < ENTRY.size or entry_size % 8 or not 0 < count <= MAX_ENTRIES or entry_size > MAX_ENTRY_SIZE:
        raise ValueError(f"it has {count} entries of {entry_size} bytes")
    tail = sector[HEADER_SIZE:size]
    return Header(revision, my_lba, alternate, first, last, guid, entries_lba, count, entry_size, entries_crc, tail)


def parse_entries(header: Header, array: bytes) -> tuple[Entry, ...]:
    """Read and check the entry array.

    Raises:
        ValueError: it is cut off or its checksum is wrong.
    """
    array = array[: header.entries_bytes]
    if len(array) < header.entries_bytes:
        raise ValueError("its entries are cut off")
    if zlib.crc32(array) != header.entries_crc:
        raise ValueError("the checksum of its entries is wrong")
    size = header.entry_size
    return tuple(Entry(index, array[index * size : (index + 1) * size]) for index in range(header.entry_count))


def encode_entries(table: Table) -> bytes:
    """Write the entry array."""
    return b"".join(entry.raw for entry in table.entries)


def encode_header(table: Table, *, my_lba: int, alternate_lba: int, entries_lba: int) -> bytes:
    """Write a header for one of the copies, one sector long, with fresh checksums."""
    header = table.header
    fields = [
        SIGNATURE, header.revision, HEADER_SIZE + len(header.tail), 0, 0, my_lba, alternate_lba, header.first_usable,
        header.last_usable, header.disk_guid, entries_lba, header.entry_count, header.entry_size,
        zlib.crc32(encode_entries(table)),
    ]  # fmt: skip
    fields[3] = zlib.crc32(HEADER.pack(*fields) + header.tail)
    return (HEADER.pack(*fields) + header.tail).ljust(table.sector_size, b"\0")


def invalid(message: str) -> LocalError:
    """Return the error for a disk whose table can't be trusted."""
    return LocalError(
        ErrorCode.GPT_INVALID,
        message,
        hint="Repair the partition table (`cgpt repair`, `sgdisk -e`); nothing is written to the disk until then.",
    )
