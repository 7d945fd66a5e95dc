"""What a unified kernel image tells of itself: its command line, and the name and version it is sorted by (pure).

A UKI is a PE file (Microsoft's PE/COFF specification) with sections `.cmdline` and `.osrel`, as the UAPI group's
specification of unified kernel images has them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Read = Callable[[int, int], bytes]  # offset and length in bytes; fewer bytes come at the end of the file
SECTION = struct.Struct("<8sIIII16x")  # name, size in memory, address, size in the file, offset in the file
SECTIONS_LIMIT, SECTION_LIMIT = 96, 64 * 1024
HEADER_AT = 0x3C  # where the DOS header says where the PE header is
OPTIONAL_SIZE_AT, SECTIONS_AT = 20, 24  # in the PE header


@dataclass(frozen=True, slots=True)
class Image:
    """What matters of a UKI; texts that it doesn't have are empty."""

    cmdline: str
    sort_key: str
    version: str


def parse_image(read: Read) -> Image:
    """Read what a UKI tells of itself.

    Raises:
        ValueError: it is no PE file, or a section can't be.
    """
    sections = _sections(read)
    release = _key_values(_text(read, sections, b".osrel"))
    version = next(
        (release[key] for key in ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID") if key in release), ""
    )
    return Image(
        cmdline=_text(read, sections, b".cmdline").strip(),
        sort_key=release.get("IMAGE_ID") or release.get("ID") or "",
        version=version,
    )


def _sections(read: Read) -> Mapping[bytes, tuple[int, int]]:
    """Return offset and size of each section by its name."""
    dos = read(0, HEADER_AT + 4)
    if dos[:2] != b"MZ" or len(dos) < HEADER_AT + 4:
        raise ValueError("it is no PE file")
    start = int.from_bytes(dos[HEADER_AT:], "little")
    header = read(start, SECTIONS_AT)
    if header[:4] != b"PE\0\0" or len(header) < SECTIONS_AT:
        raise ValueError("it has no PE header")
    count = int.from_bytes(header[6:8], "little")
    if count > SECTIONS_LIMIT:
        raise ValueError(f"it has {count} sections")
    optional = int.from_bytes(header[OPTIONAL_SIZE_AT : OPTIONAL_SIZE_AT + 2], "little")
    table = read(start + SECTIONS_AT + optional, count * SECTION.size)
    if len(table) < count * SECTION.size:
        raise ValueError("its section table is cut off")
    found = {}
    for name, size, _address, stored, offset in SECTION.iter_unpack(table):
        found[name.rstrip(b"\0")] = (offset, min(size, stored))
    return found


def _text(read: Read, sections: Mapping[bytes, tuple[int, int]], name: bytes) -> str:
    if name not in sections:
        return ""
    offset, size = sections[name]
    if size > SECTION_LIMIT:
        raise ValueError(f"its section {name.decode()} has {size} bytes")
    data = read(offset, size)
    if len(data) < size:
        raise ValueError(f"its section {name.decode()} is cut off")
    return data.rstrip(b"\0").decode("utf-8", "replace")


def _key_values(text: str) -> dict[str, str]:
    """Read os-release's KEY=VALUE lines."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#"):
            found[key] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    return found
