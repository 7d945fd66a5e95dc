"""ChromeOS's and CoreOS's way: priority, tries and success as attribute bits of the slots' GPT entries.

The boot loader picks the highest priority among the slots that are successful or have tries left, and takes one try
off an unproven slot before it boots it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from updated.errors import ErrorCode, LocalError, RefusedError
from updated.slots.disk import Disk, FileDisk
from updated.slots.gpt import NIBBLE, Entry, Table, priority_of, set_boot_bits, successful_of, tries_of
from updated.slots.layout import NAMES, HostPaths, Slot, find_entries, partition_node, slot_of
from updated.slots.tables import read_table, write_table


class GptPrio:
    """The slots of one disk, a block device or an image file."""

    def __init__(
        self,
        disk: Path,
        *,
        booted_partuuids: tuple[str, ...],
        labels: tuple[str, str] = ("USR-A", "USR-B"),
        host: HostPaths | None = None,
    ) -> None:
        self._path = disk
        self._booted = booted_partuuids
        self._labels = labels
        self._host = host or HostPaths()

    def slots(self) -> tuple[Slot, ...]:
        """Return both slots, A first.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL.
        """
        with self._disk(writable=False) as disk:
            table = read_table(disk).table
        entries = find_entries(table, self._labels)
        return tuple(slot_of(name, entry, table.sector_size) for name, entry in zip(NAMES, entries, strict=True))

    def booted(self) -> Slot:
        """Return the slot that runs.

        Raises:
            LocalError: SLOT_NOT_FOUND when the running partition is none of the two; as `slots`.
        """
        slots = self.slots()
        for partuuid in self._booted:
            for slot in slots:
                if slot.partuuid == partuuid:
                    return slot
        raise LocalError(
            ErrorCode.SLOT_NOT_FOUND,
            f"this system runs from {' or '.join(self._booted) or 'no known partition'}, no slot of {self._path}",
            hint="Look at slots.disk and slots.labels in the settings, and at root= of the kernel command line.",
        )

    def unmark(self, slot: Slot) -> None:
        """Make a slot un-bootable: priority, tries and success all 0.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: as `slots`.
        """
        self._refuse_running(slot)
        self._change(slot, lambda _table: (0, 0, False))

    def arm(self, slot: Slot, tries: int) -> None:
        """Make a slot the next to boot: priority above the other's, `tries` attempts, not yet successful.

        The other slot's entry isn't touched, so its priority must leave room above. `confirm` sees to that.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: BOOT_CONTROL when the running slot has the highest priority there is; as `slots`.
        """
        self._refuse_running(slot)
        self._change(slot, lambda table: (self._priority_above(table, slot), tries, False))

    def confirm(self, slot: Slot) -> None:
        """Mark the running slot as good; both priorities become as low as their order allows.

        They would otherwise climb with every update until four bits are full. This is the one moment when the running
        slot's entry is written: it has just proven itself, and each table that a cut may leave boots it.

        Raises:
            LocalError: as `slots`.
        """
        if slot.successful and slot.tries == 0 and 0 < slot.priority < NIBBLE:
            return
        with self._disk(writable=True) as disk:
            found = read_table(disk)
            table = found.table
            mine = self._entry(table, slot)
            other = next(entry for entry in find_entries(table, self._labels) if entry.guid != slot.partuuid)
            overtakes = slot_of("", other, table.sector_size).bootable and priority_of(other.attributes) > slot.priority
            if overtakes:  # somebody else armed the other slot: their order stays
                table = table.changed(_marked(mine, max(slot.priority, 1)))
            else:
                table = table.changed(_marked(mine, 2)).changed(_lowered(other))
            write_table(disk, found, table)

    def path_of(self, slot: Slot) -> tuple[Path, int]:
        """Return the partition's own device node, or the image file and the slot's offset in it."""
        node = partition_node(slot.partuuid, self._host) if self._path.is_block_device() else None
        return (node, 0) if node else (self._path, slot.offset)

    def _refuse_running(self, slot: Slot) -> None:
        if slot.partuuid in self._booted:
            raise RefusedError(
                ErrorCode.TARGET_IS_RUNNING,
                f"slot {slot.name} is the one that runs",
                hint="This is a fault of the configuration or of the agent; nothing was changed.",
            )

    def _priority_above(self, table: Table, slot: Slot) -> int:
        others = [entry for entry in find_entries(table, self._labels) if entry.guid != slot.partuuid]
        highest = max(priority_of(entry.attributes) for entry in others)
        if highest >= NIBBLE:
            raise LocalError(
                ErrorCode.BOOT_CONTROL,
                f"the running slot has the highest priority there is, {highest}",
                hint="Lower it: `cgpt add -i N -P 1 DISK`. The agent itself keeps priorities at 1 and 2.",
            )
        return highest + 1

    def _change(self, slot: Slot, bits: Callable[[Table], tuple[int, int, bool]]) -> None:
        """Set a slot's boot bits in both copies; a table that is so already and sound in both is left alone."""
        with self._disk(writable=True) as disk:
            found = read_table(disk)
            entry = self._entry(found.table, slot)
            priority, tries, successful = bits(found.table)
            attributes = set_boot_bits(entry.attributes, priority=priority, tries=tries, successful=successful)
            if attributes == entry.attributes and not (found.primary_damage or found.backup_damage):
                return
            write_table(disk, found, found.table.changed(entry.with_attributes(attributes)))

    def _entry(self, table: Table, slot: Slot) -> Entry:
        for entry in find_entries(table, self._labels):
            if entry.guid == slot.partuuid:
                return entry
        raise LocalError(
            ErrorCode.SLOT_NOT_FOUND,
            f"slot {slot.name} is gone from {self._path}",
            hint="Look at the disk with `lsblk`.",
        )

    @contextmanager
    def _disk(self, *, writable: bool) -> Iterator[Disk]:
        try:
            with self._open(writable=writable) as disk:
                yield disk
        except OSError as error:
            raise LocalError(
                ErrorCode.BOOT_CONTROL,
                f"the partition table of {self._path} can't be {'written' if writable else 'read'}: {error}",
                hint="Look at the disk and the kernel's log (`dmesg`).",
            ) from error

    def _open(self, *, writable: bool) -> FileDisk:
        return FileDisk(self._path, writable=writable)


def _marked(entry: Entry, priority: int) -> Entry:
    return entry.with_attributes(set_boot_bits(entry.attributes, priority=priority, tries=0, successful=True))


def _lowered(entry: Entry) -> Entry:
    attributes = entry.attributes
    return entry.with_attributes(
        set_boot_bits(
            attributes,
            priority=min(priority_of(attributes), 1),
            tries=tries_of(attributes),
            successful=successful_of(attributes),
        )
    )
