"""Reads what a unified kernel image (UKI) says on its command line: which root hash it will ask the kernel for.

Its section `.cmdline` holds the kernel's command line (UAPI group, "Unified Kernel Image"), and there is one for each
profile of an image with several.
"""

from __future__ import annotations

import re

from updated.slots.boot.pe import PeError, content, sections

MOST_CMDLINE = 64 * 1024  # bytes; the kernel takes a few thousand
ARGUMENT = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')  # the kernel's own rule: only double quotes keep blanks together
ROOT_HASHES = ("roothash", "usrhash")


def command_lines(file: memoryview) -> list[str]:
    """Return the command lines of a UKI, one for each of its profiles that has one.

    Raises:
        PeError: it is no PE file, a section ends behind it, or a command line is no text.
    """

    def read(offset: int, length: int) -> bytes:
        return bytes(file[offset : offset + length])

    found = []
    for section in sections(read):
        if section.offset + section.size > len(file):
            raise PeError(f"its section {section.name!r} ends behind the file")
        if section.name != b".cmdline":
            continue
        try:
            found.append(content(read, section, MOST_CMDLINE).rstrip(b"\0\n ").decode())
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
