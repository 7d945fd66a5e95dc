"""Reads what a unified kernel image (UKI) says on its command line: which root hash it will ask the kernel for.

A UKI is a PE file with named sections; `.cmdline` holds the kernel's command line (UAPI group, "Unified Kernel Image"),
and there is one for each profile of an image with several. The layout of PE is Microsoft's ("PE Format"). Nothing in
the file is believed: every offset is looked up inside of it, and counts have bounds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

DOS_MAGIC, PE_MAGIC = b"MZ", b"PE\0\0"
PE_OFFSET_AT = 0x3C  # of the DOS header: where the PE header is
COFF = struct.Struct("<HHIIIHH")  # machine, sections, time, symbols, their count, optional header's size, flags
SECTION = struct.Struct("<8sIIII16x")  # name, virtual size, virtual address, raw size, raw offset
MOST_SECTIONS = 96  # what Windows' loader takes
MOST_CMDLINE = 64 * 1024  # bytes; the kernel takes a few thousand
ARGUMENT = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')  # the kernel's own rule: only double quotes keep blanks together
ROOT_HASHES = ("roothash", "usrhash")


class PeError(ValueError):
    """The file isn't a PE file, or is damaged."""


class Section(NamedTuple):
    """A section's name and place in the file, in bytes."""

    name: bytes
    offset: int
    size: int


def sections(file: memoryview) -> Iterator[Section]:
    """Yield a PE file's sections.

    Raises:
        PeError: it isn't one, or one lies beyond its end.
    """
    if bytes(file[:2]) != DOS_MAGIC or len(file) < PE_OFFSET_AT + 4:
        raise PeError("it is no PE file")
    at = int.from_bytes(file[PE_OFFSET_AT : PE_OFFSET_AT + 4], "little")
    if bytes(file[at : at + 4]) != PE_MAGIC or at + 4 + COFF.size > len(file):
        raise PeError("it has no PE header where it says")
    _, count, _, _, _, optional_size, _ = COFF.unpack_from(file, at + 4)
    if count > MOST_SECTIONS:
        raise PeError(f"it has {count} sections, more than {MOST_SECTIONS}")
    at += 4 + COFF.size + optional_size
    if at + count * SECTION.size > len(file):
        raise PeError("its table of sections ends behind the file")
    for number in range(count):
        name, virtual_size, _, raw_size, offset = SECTION.unpack_from(file, at + number * SECTION.size)
        size = min(virtual_size, raw_size)
        if offset + size > len(file):
            raise PeError(f"its section {name!r} ends behind the file")
        yield Section(name.rstrip(b"\0"), offset, size)


def command_lines(file: memoryview) -> list[str]:
    """Return the command lines of a UKI, one for each of its profiles that has one.

    Raises:
        PeError: it is no PE file, or a command line is no text.
    """
    found = []
    for section in sections(file):
        if section.name != b".cmdline":
            continue
        if section.size > MOST_CMDLINE:
            raise PeError(f"its command line has {section.size} bytes, more than {MOST_CMDLINE}")
        raw = bytes(file[section.offset : section.offset + section.size]).rstrip(b"\0\n ")
        try:
            found.append(raw.decode())
        except UnicodeDecodeError as error:
            raise PeError("its command line is no text") from error
    return found


def root_hashes(command_line: str) -> list[str]:
    """Return the values of `roothash=` and `usrhash=`, lower-case, as the kernel's own splitting finds them."""
    found = []
    for argument in ARGUMENT.findall(command_line):
        key, _, value = argument.replace('"', "").partition("=")
        if key in ROOT_HASHES:
            found.append(value.lower())
    return found
