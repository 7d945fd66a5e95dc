"""Sections of a PE file, which a unified kernel image (UKI) is (pure; the layout is Microsoft's, "PE Format").

Nothing in the file is believed: every offset is read through a function that gives fewer bytes at the file's end, and
counts have bounds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

Read = Callable[[int, int], bytes]  # offset and length in bytes; fewer bytes come at the end of the file
DOS_MAGIC, PE_MAGIC = b"MZ", b"PE\0\0"
PE_OFFSET_AT = 0x3C  # of the DOS header: where the PE header is
COFF = struct.Struct("<HHIIIHH")  # machine, sections, time, symbols, their count, optional header's size, flags
SECTION = struct.Struct("<8sIIII16x")  # name, virtual size, virtual address, raw size, raw offset
MOST_SECTIONS = 96  # what Windows' loader takes


class PeError(ValueError):
    """The file isn't a PE file, or is damaged."""


class Section(NamedTuple):
    """A section's name and place in the file, in bytes."""

    name: bytes
    offset: int
    size: int


def sections(read: Read) -> list[Section]:
    """Return a PE file's sections, in their order; whether they end within the file shows when they are read.

    Raises:
        PeError: it is none.
    """
    dos = read(0, PE_OFFSET_AT + 4)
    if dos[:2] != DOS_MAGIC or len(dos) < PE_OFFSET_AT + 4:
        raise PeError("it is no PE file")
    at = int.from_bytes(dos[PE_OFFSET_AT:], "little")
    header = read(at, 4 + COFF.size)
    if header[:4] != PE_MAGIC or len(header) < 4 + COFF.size:
        raise PeError("it has no PE header where it says")
    _, count, _, _, _, optional_size, _ = COFF.unpack_from(header, 4)
    if count > MOST_SECTIONS:
        raise PeError(f"it has {count} sections, more than {MOST_SECTIONS}")
    table = read(at + 4 + COFF.size + optional_size, count * SECTION.size)
    if len(table) < count * SECTION.size:
        raise PeError("its table of sections ends behind the file")
    return [
        Section(name.rstrip(b"\0"), offset, min(virtual_size, raw_size))
        for name, virtual_size, _, raw_size, offset in SECTION.iter_unpack(table)
    ]


def content(read: Read, section: Section, most: int) -> bytes:
    """Return what is in a section, without the zeros at its end.

    Raises:
        PeError: it has more than `most` bytes, or ends behind the file.
    """
    if section.size > most:
        raise PeError(f"its section {section.name!r} has {section.size} bytes, more than {most}")
    data = read(section.offset, section.size)
    if len(data) < section.size:
        raise PeError(f"its section {section.name!r} ends behind the file")
    return data.rstrip(b"\0")
