"""A boot loader in small that shares no code with the product: it reads the GPT itself and picks by gptprio's rule.

Rule: of the partitions of the root type, the highest priority with success or tries left; the first of equals. An
unproven pick costs one try, written to both copies of the table before the boot. The primary copy counts; the backup,
in the last sector, only when the primary's checksums don't hold.
"""

from __future__ import annotations

import mmap
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT_TYPE = uuid.UUID("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6").bytes_le
FIELDS = struct.Struct("<8s4sIIIQQQQ16sQIII")
TRY = 1 << 52
HASHES = "-VERITY"  # behind a slot's label: its hash partition's
Bytes = bytes | mmap.mmap


class NothingBootableError(Exception):
    """The machine is a brick: no valid table, or no slot that may boot."""


@dataclass(frozen=True)
class Choice:
    """A slot as one copy of the table has it; offset and size in bytes on the disk."""

    index: int
    partuuid: str
    label: str
    offset: int
    size: int
    priority: int
    tries: int
    successful: bool

    @property
    def may_boot(self) -> bool:
        """Whether the rule lets it boot."""
        return self.priority > 0 and (self.successful or self.tries > 0)


@dataclass(frozen=True)
class Copy:
    """One valid copy of the table."""

    sector: int
    lba: int
    header: bytes
    entries_lba: int
    entry_size: int
    entries: bytes

    def slots(self) -> list[Choice]:
        """The partitions of the root type, in the table's order."""
        return [choice for kind, choice in self._entries() if kind == ROOT_TYPE]

    def hash_partitions(self) -> dict[str, int]:
        """The byte offsets of the partitions that are called LABEL-VERITY, by LABEL."""
        names = {choice.label: choice.offset for _, choice in self._entries()}
        return {name.removesuffix(HASHES): offset for name, offset in names.items() if name.endswith(HASHES)}

    def _entries(self) -> Iterator[tuple[bytes, Choice]]:
        """All partitions, with their types."""
        for index in range(len(self.entries) // self.entry_size):
            entry = self.entries[index * self.entry_size :][: self.entry_size]
            kind, guid, first, last, bits, name = struct.unpack_from("<16s16sQQQ72s", entry)
            if any(kind):
                label = name.decode("utf-16-le", "replace").partition("\0")[0]
                place = (first * self.sector, (last - first + 1) * self.sector)
                marks = (bits >> 48 & 15, bits >> 52 & 15, bool(bits >> 56 & 1))
                yield kind, Choice(index, str(uuid.UUID(bytes_le=guid)), label, *place, *marks)


def choose(disk: Path) -> Choice:
    """Return what would boot.

    Raises:
        NothingBootableError: the machine is a brick.
    """
    with disk.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return choose_from(data)


def boot(disk: Path) -> Choice:
    """Pick a slot and take a try off it when it isn't proven, as a boot does.

    Raises:
        NothingBootableError: the machine is a brick.
    """
    choice = choose(disk)
    if not choice.successful:
        _take_try(disk, choice)
    return choice


def choose_from(data: Bytes) -> Choice:
    """Return what would boot from the bytes of a disk.

    Raises:
        NothingBootableError: the machine is a brick.
    """
    copies = valid_copies(data)
    if not copies:
        raise NothingBootableError("no valid partition table")
    slots = [slot for slot in copies[0].slots() if slot.may_boot]
    if not slots:
        raise NothingBootableError("no slot may boot")
    return max(slots, key=lambda slot: slot.priority)  # of equals, max returns the first


def eligible_anywhere(data: Bytes) -> set[str]:
    """Return the labels of all slots that any valid copy lets boot, if only after another one failed."""
    return {slot.label for copy in valid_copies(data) for slot in copy.slots() if slot.may_boot}


def valid_copies(data: Bytes) -> list[Copy]:
    """Return the copies whose checksums hold, primary first."""
    for sector in (512, 4096):
        places = (1, len(data) // sector - 1)
        copies = [copy for lba in places if (copy := _copy(data, sector, lba)) is not None]
        if copies:
            return copies
    return []


def _copy(data: Bytes, sector: int, lba: int) -> Copy | None:
    header = data[lba * sector : (lba + 1) * sector]
    if len(header) < FIELDS.size or header[:8] != b"EFI PART":
        return None
    fields = FIELDS.unpack_from(header)
    length, crc, own_lba = fields[2], fields[3], fields[5]
    entries_lba, count, entry_size, entries_crc = fields[10:]
    if not FIELDS.size <= length <= sector or own_lba != lba:
        return None
    if zlib.crc32(header[:16] + b"\0\0\0\0" + header[20:length]) != crc:
        return None
    entries = data[entries_lba * sector :][: count * entry_size]
    if zlib.crc32(entries) != entries_crc:
        return None
    return Copy(sector, lba, header[:length], entries_lba, entry_size, entries)


def _take_try(disk: Path, choice: Choice) -> None:
    """Write one try less into every valid copy, as the boot loader does before it boots an unproven slot."""
    with disk.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            copies = valid_copies(data)
        for copy in copies:
            entries = bytearray(copy.entries)
            at = choice.index * copy.entry_size + 48
            (bits,) = struct.unpack_from("<Q", entries, at)
            struct.pack_into("<Q", entries, at, bits - TRY if bits >> 52 & 15 else bits)
            header = bytearray(copy.header)
            struct.pack_into("<I", header, 88, zlib.crc32(entries))
            struct.pack_into("<I", header, 16, 0)
            struct.pack_into("<I", header, 16, zlib.crc32(header))
            for offset, block in ((copy.entries_lba, entries), (copy.lba, header)):
                file.seek(offset * copy.sector)
                file.write(block)
        file.flush()
        os.fsync(file.fileno())
