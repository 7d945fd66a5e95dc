"""GRUB's environment block: 1,024 bytes of NAME=VALUE lines behind a first line that marks it, padded with `#` (pure).

Read as GRUB 2.06 and newer reads it: a backslash takes the next byte as it is, a value without an end isn't one, a
name goes on until `=`, over line ends too. Lines that begin with `#` are comments.

What is written keeps our variables in front, in the first sector of 512 bytes, each at a length that never changes.
GRUB and the agent change nothing else: so a block that is torn between its two sectors is whole, old or new.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MARK = b"# GRUB Environment Block\n"
SIZE = 1024
SECTOR = 512
NAME = re.compile(r"[A-Za-z0-9_]+")
VALUE = re.compile(r"[ A-Za-z0-9_]*")
ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
VALUE_END = re.compile(rb"((?:[^\\\n]|\\.)*)\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class EnvBlock:
    """The variables of a block, and its bytes."""

    raw: bytes
    variables: Mapping[str, str]

    def get(self, name: str) -> str:
        """Return a variable; nothing when it isn't set."""
        return self.variables.get(name, "")


def parse_block(raw: bytes) -> EnvBlock:
    """Read a block.

    Raises:
        ValueError: it isn't marked as one, or isn't 1,024 bytes long, so that GRUB couldn't write into it.
    """
    if not raw.startswith(MARK):
        raise ValueError("it doesn't begin as an environment block does")
    if len(raw) != SIZE:
        raise ValueError(f"it has {len(raw)} bytes, not {SIZE}")
    found: dict[str, str] = {}
    for _start, _end, name, value in _lines(raw):
        found[name.decode("utf-8", "replace")] = ESCAPED.sub(rb"\1", value).decode("utf-8", "replace")
    return EnvBlock(raw, found)


def _lines(raw: bytes) -> list[tuple[int, int, bytes, bytes]]:
    """Return start, end, name and value, as it is spelt, of each variable."""
    found, at = [], 0
    while at < len(raw):
        if raw[at : at + 1] != b"#":
            equals = raw.find(b"=", at)
            value = VALUE_END.match(raw, equals + 1) if equals >= 0 else None
            if value is None:
                break
            found.append((at, value.end(), raw[at:equals], value[1]))
            at = value.end()
            continue
        at = raw.find(b"\n", at) + 1 or len(raw)
    return found


def changed_block(block: EnvBlock, values: Mapping[str, str]) -> bytes:
    """Return a block with these variables in front, in their order, and all others behind, as they were.

    Raises:
        ValueError: they don't fit, or a name or value isn't a plain word or some.
    """
    for name, value in values.items():
        if not (NAME.fullmatch(name) and VALUE.fullmatch(value)):
            raise ValueError(f"{name}={value!r} can't be written into an environment block")
    ours = "".join(f"{name}={value}\n" for name, value in values.items()).encode()
    data = _comments(block.raw) + ours
    if len(data) > SECTOR:
        raise ValueError(f"our variables would end behind the first {SECTOR} bytes")
    for start, end, spelt, _ in _lines(block.raw):
        if b"\n" not in spelt and spelt.decode("utf-8", "replace") not in values:
            data += block.raw[start:end]
    if len(data) > SIZE:
        raise ValueError(f"{len(data)} bytes don't fit into {SIZE}")
    return data.ljust(SIZE, b"#")


def _comments(raw: bytes) -> bytes:
    """Return the comments that a block begins with."""
    at = 0
    while raw[at : at + 1] == b"#" and raw.find(b"\n", at) >= 0:
        at = raw.find(b"\n", at) + 1
    return raw[:at]


def new_block(values: Mapping[str, str]) -> bytes:
    """Return a block with nothing but these variables."""
    return changed_block(EnvBlock(MARK.ljust(SIZE, b"#"), {}), values)
