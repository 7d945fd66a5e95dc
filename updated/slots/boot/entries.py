"""systemd-boot's entries as they lie on the ESP: which slot each boots, and which of them is booted first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from updated.slots.boot.bls import ENTRY_LIMIT, EntryFile, EntryName, parse_entry, parse_name
from updated.slots.boot.bls_order import Candidate, in_order
from updated.slots.boot.esp import BootFolder
from updated.slots.boot.uki import parse_image

CONF_FOLDER, IMAGE_FOLDER = "loader/entries", "EFI/Linux"
LOADER_CONF = "loader/loader.conf"
FILES = ("linux", "efi", "uki", "initrd", "devicetree")  # keys that name files
PROGRAMS = ("linux", "efi", "uki")  # what is started; an entry whose program isn't there is left out of the menu


@dataclass(frozen=True, slots=True)
class SlotIdentity:
    """How a command line names a slot: by the ids and labels of its partitions, root first."""

    name: str  # A or B
    partuuids: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def stem(self) -> str:
        """What this slot's entries are called."""
        return f"slot-{self.name.lower()}"

    def is_named_in(self, cmdline: str) -> bool:
        """Tell whether a command line names one of its partitions."""
        ids = [re.escape(uuid) for uuid in self.partuuids]
        labels = [rf"(?:PARTLABEL=|/by-partlabel/){re.escape(label)}" for label in self.labels]
        return bool(re.search(rf"(?:{'|'.join([*ids, *labels])})(?![^\s\"',:])", cmdline, re.IGNORECASE))


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One entry; `file` is None for a unified kernel image."""

    folder: BootFolder
    path: str
    name: EntryName
    candidate: Candidate
    slot: str | None  # the letter of the slot that it boots; None when it is none of them
    named_for: str | None  # the letter that its name has
    file: EntryFile | None

    @property
    def contradicts(self) -> bool:
        """Whether its name says one slot and its command line the other."""
        return None not in (self.slot, self.named_for) and self.slot != self.named_for


@dataclass(frozen=True, slots=True)
class Menu:
    """All entries that the boot loader finds, what couldn't be read, and the default that loader.conf sets."""

    entries: tuple[BootEntry, ...]
    problems: tuple[str, ...]
    default: str

    def of(self, slot: str) -> list[BootEntry]:
        """Return a slot's entries, the one that would boot first, first."""
        order = in_order([entry.candidate for entry in self.entries], stripped=True)
        return sorted(
            (entry for entry in self.entries if entry.slot == slot), key=lambda entry: order.index(entry.candidate)
        )

    def ranks(self) -> dict[str, int]:
        """Return 2 for the slot that boots first and 1 for the other; 0 for one that has no entry."""
        order = in_order([entry.candidate for entry in self.entries], stripped=True)
        slots = {entry.candidate: entry.slot for entry in self.entries}
        letters = list(dict.fromkeys(letter for item in order if (letter := slots[item]) is not None))
        return {letter: 2 - rank for rank, letter in enumerate(letters)}


def read_menu(folders: Sequence[BootFolder], slots: Sequence[SlotIdentity]) -> Menu:
    """Read all entries of all file systems, as the boot loader would.

    Raises:
        OSError: a folder can't be read.
    """
    found: list[BootEntry] = []
    problems: list[str] = []
    for folder in folders:
        for place, suffix in ((CONF_FOLDER, ".conf"), (IMAGE_FOLDER, ".efi")):
            for text in folder.names(place):
                name = parse_name(text)
                if name is None or name.suffix.lower() != suffix or folder.size(f"{place}/{text}") is None:
                    continue
                try:
                    entry = read_entry(folder, f"{place}/{text}", name, slots)
                except ValueError as error:
                    problems.append(f"The entry {folder.root / place / text} can't be used: {error}.")
                else:
                    found.append(entry)
    return Menu(tuple(found), tuple(problems), _default_of(folders[0]) if folders else "")


def read_entry(folder: BootFolder, path: str, name: EntryName, slots: Sequence[SlotIdentity]) -> BootEntry:
    """Read one entry.

    Raises:
        ValueError: it is none that the boot loader could start, or names both slots.
        OSError: it can't be read.
    """
    if name.is_image:
        image = parse_image(lambda offset, length: folder.read(path, offset, length))
        file, cmdline = None, image.cmdline
        candidate = Candidate(name, image.sort_key, "", image.version)
    else:
        file = parse_entry(folder.read(path, 0, ENTRY_LIMIT + 1))
        candidate, cmdline = candidate_of(name, file), file.options
        check_program(folder, file)
    named = [slot.name for slot in slots if slot.is_named_in(cmdline)]
    named_for = next((slot.name for slot in slots if name.stem.lower() == slot.stem), None)
    if len(named) > 1:
        raise ValueError("its options name both slots")
    return BootEntry(folder, path, name, candidate, named[0] if named else named_for, named_for, file)


def candidate_of(name: EntryName, file: EntryFile) -> Candidate:
    """Return what the order looks at of a type 1 entry."""
    return Candidate(name, file.get("sort-key"), file.get("machine-id"), file.get("version"))


def check_program(folder: BootFolder, file: EntryFile) -> None:
    """See that what an entry starts is there.

    Raises:
        ValueError: it isn't, and the boot loader would leave the entry out.
    """
    program = next((file.get(key) for key in PROGRAMS if file.get(key)), "")
    if not program:
        raise ValueError("it names nothing to start")
    if folder.size(on_disk(program)) is None:
        raise ValueError(f"there is no {program}")


def on_disk(path: str) -> str:
    """Return a path of an entry as one below the file system's root."""
    return path.replace("\\", "/").lstrip("/")


def files_named(entry: BootEntry) -> set[str]:
    """Return the files that an entry starts or loads, below the root of its file system, in lower case."""
    if entry.file is None:
        return {entry.path.lower()}
    return {on_disk(value).lower() for key in FILES for value in entry.file.values(key)}


def picked(candidates: Iterable[Candidate], pattern: str) -> list[Candidate]:
    """Return what would be booted: one entry, or two where systemd-boot's versions differ.

    Args:
        candidates: of all entries.
        pattern: of loader.conf's `default`; empty: the first entry is.
    """
    listed = list(candidates)
    found = []
    for stripped in (True, False):
        order = in_order(listed, stripped=stripped)
        names = [(item.name.identity if stripped else str(item.name).lower()) for item in order]
        matching = [item for item, name in zip(order, names, strict=True) if fnmatchcase(name, pattern.lower())]
        found += (matching if pattern and matching else order)[:1]
    return list(dict.fromkeys(found))


def _default_of(folder: BootFolder) -> str:
    """Return the pattern of loader.conf; nothing when it has none."""
    if folder.size(LOADER_CONF) is None:
        return ""
    try:
        return parse_entry(folder.read(LOADER_CONF, 0, ENTRY_LIMIT + 1)).get("default")
    except ValueError:
        return ""  # the boot loader reads what it can; without a line `default` the first entry is booted
