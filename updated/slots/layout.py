"""Which partitions of a table are the slots; the places where a host tells about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
class Layout:
    """What the settings say of the slots.

    Args:
        labels: the partition labels of slot A and slot B.
        verity_labels: those of their hash partitions; empty when they have none.
        type_guid: the partition type that a slot must have; None: any, its label is enough.
        files: where a payload's further files go, by their names in it; `{slot}` in a path is a or b.
    """

    labels: tuple[str, str] = ("USR-A", "USR-B")
    verity_labels: tuple[str, ...] = ()
    type_guid: str | None = COREOS_ROOTFS
    files: Mapping[str, Path] = field(default_factory=dict)

    def files_of(self, slot: Slot) -> dict[str, Path]:
        """Return the paths of `files` for a slot."""
        return {name: Path(str(path).replace("{slot}", slot.name.lower())) for name, path in self.files.items()}


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
    def place(self) -> range:
        """The bytes of the disk that it has."""
        return range(self.offset, self.offset + self.size)

    @property
    def bootable(self) -> bool:
        """Whether the boot loader may pick it."""
        return self.priority > 0 and (self.successful or self.tries > 0)


def find_entries(table: Table, layout: Layout) -> tuple[Entry, Entry]:
    """Return the entries of slot A and slot B: with the layout's labels and type, each once.

    Raises:
        LocalError: SLOT_NOT_FOUND, or GPT_INVALID when a slot shares its PARTUUID or sectors with another partition.
    """
    found = []
    kind = layout.type_guid
    for label in layout.labels:
        matching = [entry for entry in table.partitions() if entry.label == label and kind in (None, entry.type_guid)]
        if len(matching) != 1:
            of_type = f" of type {kind}" if kind else ""
            raise not_found(f"the disk has {len(matching)} partitions labelled {label}{of_type}, not 1")
        found.append(matching[0])
    _check_apart(table, found)
    return found[0], found[1]


def find_verity(table: Table, layout: Layout) -> tuple[Entry, ...]:
    """Return the entries of the slots' hash partitions, found by their labels; of whatever type.

    Raises:
        LocalError: SLOT_NOT_FOUND, or GPT_INVALID as `find_entries`.
    """
    found = []
    for label in layout.verity_labels:
        matching = [entry for entry in table.partitions() if entry.label == label]
        if len(matching) != 1:
            raise not_found(f"the disk has {len(matching)} partitions labelled {label}, not 1", "slots.verity_labels")
        found.append(matching[0])
    _check_apart(table, found)
    return tuple(found)


def place_of(entry: Entry, sector_size: int) -> range:
    """Return the bytes of its disk that an entry's partition has."""
    return range(entry.first_lba * sector_size, (entry.last_lba + 1) * sector_size)


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
    place = place_of(entry, sector_size)
    return Slot(
        name=name,
        partuuid=entry.guid,
        label=entry.label,
        offset=place.start,
        size=len(place),
        priority=priority_of(entry.attributes),
        tries=tries_of(entry.attributes),
        successful=successful_of(entry.attributes),
    )


def not_found(message: str, setting: str = "slots.disk and slots.labels") -> LocalError:
    """Return the error for slots or a disk that aren't where the settings say."""
    return LocalError(
        ErrorCode.SLOT_NOT_FOUND,
        message,
        hint=f"Look at {setting} in the settings, and at `lsblk -o +PARTLABEL,PARTUUID`.",
    )
