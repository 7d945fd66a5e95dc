"""Boot Loader Specification: names of entries with their boot counters, and type 1 entry files (pure).

A name is NAME.conf or NAME.efi, with `+LEFT` or `+LEFT-DONE` before the suffix while boots are counted: the boot loader
takes one off LEFT and adds one to DONE before it boots the entry. A type 1 file has a key and a value a line, as
systemd-boot 252 and newer read it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

CONF, EFI = ".conf", ".efi"
COUNTED = re.compile(
    r"(?P<stem>.*)\+(?P<left>[0-9]{1,10})(?:-(?P<done>[0-9]{1,10}))?(?P<suffix>\.(?:conf|efi))",
    re.IGNORECASE | re.DOTALL,
)
LARGEST = 2**31 - 1  # a larger count isn't one to systemd-boot
ENTRY_LIMIT = 64 * 1024  # bytes of an entry file
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class EntryName:
    """The name of an entry: what it is called, and its counter if it has one."""

    stem: str
    suffix: str  # `.conf` or `.efi`, as it is spelt
    left: int | None = None  # boots left; None: it isn't counted
    done: int = 0  # boots that were tried

    @property
    def identity(self) -> str:
        """The name without its counter, in lower case: how systemd-boot 257 and newer call the entry."""
        return (self.stem + self.suffix).lower()

    @property
    def is_image(self) -> bool:
        """Whether it is a unified kernel image and not a type 1 file."""
        return self.suffix.lower() == EFI

    def counted(self, left: int, done: int = 0) -> EntryName:
        """Return the name with another counter."""
        return replace(self, left=left, done=done)

    def plain(self) -> EntryName:
        """Return the name without a counter: the one of an entry that proved itself."""
        return replace(self, left=None, done=0)

    def __str__(self) -> str:
        if self.left is None:
            return self.stem + self.suffix
        return f"{self.stem}+{self.left}{f'-{self.done}' if self.done else ''}{self.suffix}"


def parse_name(name: str) -> EntryName | None:
    """Read the name of a file; None when the boot loader takes no such file for an entry."""
    if name[-len(CONF) :].lower() not in (CONF, EFI) and name[-len(EFI) :].lower() != EFI:
        return None
    if name.startswith((".", "auto-")):
        return None
    found = COUNTED.fullmatch(name)
    if found and int(found["left"]) <= LARGEST and int(found["done"] or 0) <= LARGEST:
        return EntryName(found["stem"], found["suffix"], int(found["left"]), int(found["done"] or 0))
    stem, dot, suffix = name.rpartition(".")
    return EntryName(stem, dot + suffix)


@dataclass(frozen=True, slots=True)
class EntryFile:
    """A type 1 entry: its keys and values in their order; comments aren't kept."""

    fields: tuple[tuple[str, str], ...]

    def values(self, key: str) -> tuple[str, ...]:
        """Return all values of a key."""
        return tuple(value for name, value in self.fields if name == key)

    def get(self, key: str) -> str:
        """Return the value of a key that counts once, the last one; nothing when it isn't there."""
        return self.values(key)[-1] if self.values(key) else ""

    @property
    def options(self) -> str:
        """All options in one line."""
        return " ".join(self.values("options"))

    def put(self, key: str, values: Sequence[str]) -> EntryFile:
        """Return the entry with all values of a key replaced, at the place of the first one or at the end."""
        at = next((index for index, (name, _) in enumerate(self.fields) if name == key), len(self.fields))
        before = [field for field in self.fields[:at] if field[0] != key]
        after = [field for field in self.fields[at:] if field[0] != key]
        return EntryFile((*before, *((key, value) for value in values), *after))

    def encode(self) -> bytes:
        """Write the file.

        Raises:
            ValueError: a key or value can't be written so that it is read back the same, or the file is too long.
        """
        text = "".join(f"{key} {value}\n" for key, value in self.fields)
        data = text.encode()
        if len(data) > ENTRY_LIMIT:
            raise ValueError(f"the entry would have {len(data)} bytes, more than {ENTRY_LIMIT}")
        if parse_entry(data) != self:
            raise ValueError(
                "the entry would be read back differently: a value has a line break or a quote at its ends"
            )
        return data


def parse_entry(data: bytes) -> EntryFile:
    """Read a type 1 file: blanks around are no part of a value, nor is one pair of quotes.

    Raises:
        ValueError: it is longer than 64 KiB or isn't UTF-8.
    """
    if len(data) > ENTRY_LIMIT:
        raise ValueError(f"it is longer than {ENTRY_LIMIT} bytes")
    fields = []
    for raw in re.split(r"[\r\n]", data.decode()):
        line = raw.strip(" \t")
        key, _, value = line.partition(" ") if "\t" not in line.partition(" ")[0] else line.partition("\t")
        if not key.startswith("#") and value.strip(" \t"):
            fields.append((key, _unquoted(value.strip(" \t"))))
    return EntryFile(tuple(fields))


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def check_printable(what: str, value: str, longest: int = 4096) -> str:
    """Return a value that may go into an entry.

    Raises:
        ValueError: it is empty, too long, or has a control character in it, which might begin a line of its own.
    """
    if not value or len(value) > longest or UNPRINTABLE.search(value):
        raise ValueError(f"{what} {value[:64]!r} can't be written into a boot entry")
    return value
