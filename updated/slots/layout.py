"""Which partitions of a table are the slots; the places where a host tells about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from updated.errors import ErrorCode, LocalError
from updated.slots.gpt import COREOS_ROOTFS, Entry, Table, invalid, priority_of, successful_of, tries_of

NAMES = ("A", "B")


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Where the kernel tells what runs here; tests and containers name others."""

    cmdline: Path = Path("/proc/cmdline")
    mountinfo: Path = Path("/proc/self/mountinfo")
    sysfs: Path = Path("/sys")
    boot_id: Path = Path("/proc/sys/kernel/random/boot_id")
    machine_id: Path = Path("/etc/machine-id")
    os_release: Path = Path("/etc/os-release")
    root: Path = Path("/")
    dev: Path = Path("/dev")


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the two; offset and size in bytes on the disk."""

    name: str
    partuuid: str
    label: str
    offset: int
    size: int
    priority: int
    tries: int
    successful: bool

    @property
    def bootable(self) -> bool:
        """Whether the boot loader may pick it."""
        return self.priority > 0 and (self.successful or self.tries > 0)


def find_entries(table: Table, labels: Sequence[str]) -> tuple[Entry, Entry]:
    """Return the entries of slot A and slot B: of CoreOS's root type, with these labels, each once.

    Raises:
        LocalError: SLOT_NOT_FOUND, or GPT_INVALID when a slot shares its PARTUUID or sectors with another partition.
    """
    found = []
    for label in labels:
        matching = [entry for entry in table.entries if entry.label == label and entry.type_guid == COREOS_ROOTFS]
        if len(matching) != 1:
            raise not_found(f"the disk has {len(matching)} partitions labelled {label} of type {COREOS_ROOTFS}, not 1")
        found.append(matching[0])
    _check_apart(table, found)
    return found[0], found[1]


def _check_apart(table: Table, slots: Sequence[Entry]) -> None:
    """Refuse a table in which writing to a slot could reach anything else."""
    header = table.header
    for slot in slots:
        if not header.first_usable <= slot.first_lba <= slot.last_lba <= header.last_usable:
            raise invalid(f"{slot.label} has the sectors {slot.first_lba} to {slot.last_lba}, not all of them usable")
    for one, other in combinations(table.partitions(), 2):
        if one not in slots and other not in slots:
            continue
        if one.guid == other.guid:
            raise invalid(f"{one.label} and {other.label} have the same PARTUUID {one.guid}")
        if one.overlaps(other):
            raise invalid(f"{one.label} and {other.label} overlap")


def slot_of(name: str, entry: Entry, sector_size: int) -> Slot:
    """Describe a table's entry as a slot."""
    return Slot(
        name=name,
        partuuid=entry.guid,
        label=entry.label,
        offset=entry.first_lba * sector_size,
        size=(entry.last_lba - entry.first_lba + 1) * sector_size,
        priority=priority_of(entry.attributes),
        tries=tries_of(entry.attributes),
        successful=successful_of(entry.attributes),
    )


def not_found(message: str) -> LocalError:
    """Return the error for slots or a disk that aren't where the settings say."""
    return LocalError(
        ErrorCode.SLOT_NOT_FOUND,
        message,
        hint="Look at slots.disk and slots.labels in the settings, and at `lsblk -o +PARTLABEL,PARTUUID`.",
    )
