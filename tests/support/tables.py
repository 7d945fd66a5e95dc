"""Partition tables of unusual shape, written by hand: the same partitions in entries of another size and number."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from tests.support.bootloader import FIELDS, valid_copies


def reshape(disk: Path, *, entry_size: int, count: int, header_size: int) -> None:
    """Write both copies of a disk's table anew.

    Args:
        disk: an image with a table of entries of 128 bytes.
        entry_size: bytes of an entry; behind the first 128 it has a mark of its own.
        count: how many entries.
        header_size: bytes that the header says it has, filled with a mark behind the usual 92.
    """
    data = disk.read_bytes()
    copy = valid_copies(data)[0]
    sector, fields = copy.sector, list(FIELDS.unpack_from(copy.header))
    array = bytearray()
    for index in range(count):
        entry = copy.entries[index * 128 : index * 128 + 128].ljust(128, b"\0")
        tail = bytes([index % 251]) * (entry_size - 128) if any(entry) else bytes(entry_size - 128)
        array += entry + tail
    sectors, last = -(-len(array) // sector), len(data) // sector - 1
    fields[7], fields[8] = 2 + sectors, last - sectors - 1
    fields[11], fields[12], fields[13] = count, entry_size, zlib.crc32(array)
    with disk.open("r+b") as file:
        for mine, other, entries in ((1, last, 2), (last, 1, last - sectors)):
            fields[2], fields[3], fields[5], fields[6], fields[10] = header_size, 0, mine, other, entries
            header = bytearray(FIELDS.pack(*fields) + b"\x5a" * (header_size - FIELDS.size))
            struct.pack_into("<I", header, 16, zlib.crc32(header))
            file.seek(mine * sector)
            file.write(header.ljust(sector, b"\0"))
            file.seek(entries * sector)
            file.write(array)
