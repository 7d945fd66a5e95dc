"""What a unified kernel image tells of itself: its command line, and the name and version it is sorted by (pure).

It says so in its sections `.cmdline` and `.osrel`, as the UAPI group's specification of unified kernel images has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from updated.slots.boot.pe import Read, Section, content, sections

MOST_TEXT = 64 * 1024  # bytes of a section that is read


@dataclass(frozen=True, slots=True)
class Image:
    """What matters of a UKI; texts that it doesn't have are empty."""

    cmdline: str
    sort_key: str
    version: str


def parse_image(read: Read) -> Image:
    """Read what a UKI tells of itself.

    Raises:
        PeError: it is no PE file, or a section can't be.
    """
    found = {section.name: section for section in sections(read)}
    release = _key_values(_text(read, found, b".osrel"))
    version = next(
        (release[key] for key in ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID") if key in release), ""
    )
    return Image(
        cmdline=_text(read, found, b".cmdline").strip(),
        sort_key=release.get("IMAGE_ID") or release.get("ID") or "",
        version=version,
    )


def _text(read: Read, found: Mapping[bytes, Section], name: bytes) -> str:
    return content(read, found[name], MOST_TEXT).decode("utf-8", "replace") if name in found else ""


def _key_values(text: str) -> dict[str, str]:
    """Read os-release's KEY=VALUE lines."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#"):
            found[key] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    return found
