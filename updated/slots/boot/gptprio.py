"""ChromeOS's and CoreOS's way: priority, tries and success as attribute bits of the slots' GPT entries.

The boot loader picks the highest priority among the slots that are successful or have tries left, and takes one try
off an unproven slot before it boots it.

The running slot's entry is written in two cases only, `confirm` and `give_up`. A fresh slot's priority must be above
the running one's, and priorities have four bits: so `confirm`, which writes the entry anyway, puts both as low as
their order allows. From then on 1 and 2 run, 3 is armed, and a running slot at 15 exists only where something else
marked it; `confirm` lowers that too, and `arm` refuses rather than touch the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from updated.errors import ErrorCode, LocalError, RefusedError
from updated.slots.boot import Contents
from updated.slots.devices import partition_node
from updated.slots.disk import Disk, FileDisk
from updated.slots.gpt import COREOS_ROOTFS, NIBBLE, Entry, Table, priority_of, set_boot_bits, successful_of, tries_of
from updated.slots.layout import NAMES, HostPaths, Layout, Slot, find_entries, find_verity, place_of, slot_of
from updated.slots.tables import Found, read_table, write_table

Opener = Callable[[bool], AbstractContextManager[Disk]]


class GptPrio:
    """The slots of one disk, a block device or an image file.

    Args:
        disk: the device node or the image file.
        booted_partuuids: what the system may be running from; at most one of the slots.
        layout: the labels of the slots and of their hash partitions, and where boot files go.
        host: where the kernel tells about partitions' device nodes.
        open_disk: opens the medium, for writing when told True; a test puts a recorder here.
    """

    def __init__(
        self,
        disk: Path,
        *,
        booted_partuuids: tuple[str, ...],
        layout: Layout = Layout(),  # noqa: B008 - it is frozen
        host: HostPaths | None = None,
        open_disk: Opener | None = None,
    ) -> None:
        self._path = disk.resolve()
        self._booted = booted_partuuids
        self._layout = layout
        self._host = host or HostPaths()
        self._open_disk = open_disk or (lambda writable: FileDisk(self._path, writable=writable))

    def slots(self) -> tuple[Slot, ...]:
        """Return both slots, A first.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL.
        """
        with self._disk(writable=False) as disk:
            return self._slots(read_table(disk).table)

    def booted(self) -> Slot:
        """Return the slot that runs.

        Raises:
            LocalError: SLOT_NOT_FOUND when it is none of the two or could be both; as `slots`.
        """
        return self._running(self.slots())

    def unmark(self, slot: Slot) -> None:
        """Make a slot un-bootable: priority, tries and success all 0.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: BOOT_CONTROL when the running slot is unproven, so that nothing would be left to fall back to;
                as `slots`.
        """
        self._change(slot, lambda _table: (0, 0, False))

    def arm(self, slot: Slot, tries: int, contents: Contents | None = None) -> None:
        """Make a slot the next to boot: priority above every other's, `tries` attempts (1 to 15), not yet successful.

        The boot loader finds a slot's files by its letter, so that what was put there needn't be written anywhere.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: BOOT_CONTROL when the running slot is unproven or has the highest priority there is; as `slots`.
        """
        if not 1 <= tries <= NIBBLE:
            raise ValueError(f"a slot is armed for 1 to {NIBBLE} tries, not {tries}")
        self._change(slot, lambda table: (self._priority_above(table, slot), tries, False))

    def confirm(self, slot: Slot) -> None:
        """Mark the running slot as good, and put the priorities as low as their order allows.

        Each table that a cut may leave boots the running slot, or what was armed above it before.

        Raises:
            LocalError: BOOT_CONTROL when `slot` isn't the running one; as `slots`.
        """
        with self._disk(writable=True) as disk:
            found = read_table(disk)
            self._refuse_other(slot, self._running(self._slots(found.table)))
            if all(_proven(self._entry(copy, slot)) for copy in found.copies):
                return
            wanted = self._confirmed(found.table, slot)
            if any(copy.entries != wanted.entries for copy in found.copies):
                write_table(disk, found, wanted)

    def give_up(self, slot: Slot) -> None:
        """Spend the running slot's tries, so that the boot loader comes back to the other slot.

        Raises:
            LocalError: BOOT_CONTROL when `slot` isn't the running one or isn't on trial, or when the other slot isn't
                proven; as `slots`.
        """
        with self._disk(writable=True) as disk:
            found = read_table(disk)
            slots = self._slots(found.table)
            running = self._running(slots)
            self._refuse_other(slot, running)
            other = next(one for one in slots if one.partuuid != running.partuuid)
            refuse_giving_up(running, other)
            mine = self._entry(found.table, slot)
            spent = _with_bits(mine, priority_of(mine.attributes), 0, successful=False)
            if any(self._entry(copy, slot).attributes != spent.attributes for copy in found.copies):
                write_table(disk, found, found.table.changed(spent))

    def path_of(self, slot: Slot) -> tuple[Path, int]:
        """Return the partition's own device node, or the image file and the slot's offset in it.

        Raises:
            LocalError: BOOT_CONTROL; the disk is gone.
        """
        return self._open_at(slot.place)

    def verity_of(self, slot: Slot) -> tuple[Path, int, int] | None:
        """Return node or image file, offset and size of the slot's hash partition; None without `slots.verity_labels`.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL.
        """
        if not self._layout.verity_labels:
            return None
        with self._disk(writable=False) as disk:
            table = read_table(disk).table
        entry = find_verity(table, self._layout)[NAMES.index(slot.name)]
        place = place_of(entry, table.sector_size)
        return (*self._open_at(place), len(place))

    def files_of(self, slot: Slot) -> Mapping[str, Path]:
        """Return the places that the settings name for a payload's kernel and initrd."""
        return self._layout.files_of(slot)

    def notes(self) -> tuple[str, ...]:
        """Return which disk it is, and what is wrong with either copy of its table.

        Raises:
            LocalError: GPT_INVALID, BOOT_CONTROL.
        """
        with self._disk(writable=False) as disk:
            found = read_table(disk)
        return (f"the slots are partitions of {self._path}, chosen by their GPT attributes (gptprio)", *damage(found))

    def _open_at(self, place: range) -> tuple[Path, int]:
        try:
            node = partition_node(self._path, place, self._host) if self._path.is_block_device() else None
        except OSError as error:
            raise self._failed("looked at", error) from error
        return (node, 0) if node else (self._path, place.start)

    def _slots(self, table: Table) -> tuple[Slot, ...]:
        entries = find_entries(table, self._layout.labels)
        return tuple(slot_of(name, entry, table.sector_size) for name, entry in zip(NAMES, entries, strict=True))

    def _running(self, slots: tuple[Slot, ...]) -> Slot:
        running = [slot for slot in slots if slot.partuuid in self._booted]
        if len(running) == 1:
            return running[0]
        raise LocalError(
            ErrorCode.SLOT_NOT_FOUND,
            f"this system runs from {' and '.join(self._booted) or 'no known partition'}:"
            f" {'both slots' if running else 'no slot'} of {self._path}",
            hint="Look at slots.disk and slots.labels in the settings, and at root= of the kernel command line.",
        )

    def _change(self, slot: Slot, bits: Callable[[Table], tuple[int, int, bool]]) -> None:
        """Set another slot's boot bits in both copies, unless each good copy has them already.

        A damaged copy is made anew with the change; where nothing needs to change, nothing is repaired either.
        """
        with self._disk(writable=True) as disk:
            found = read_table(disk)
            self._refuse(slot, self._running(self._slots(found.table)))
            changed = _with_bits(self._entry(found.table, slot), *bits(found.table))
            if any(self._entry(copy, slot).attributes != changed.attributes for copy in found.copies):
                write_table(disk, found, found.table.changed(changed))

    def _refuse(self, slot: Slot, running: Slot) -> None:
        if slot.partuuid in (*self._booted, running.partuuid):
            raise RefusedError(
                ErrorCode.TARGET_IS_RUNNING,
                f"slot {slot.name} is the one that runs",
                hint="This is a fault of the configuration or of the agent; nothing was changed.",
            )
        if not (running.successful and running.priority):
            raise LocalError(
                ErrorCode.BOOT_CONTROL,
                f"slot {running.name}, which runs, isn't marked good: without slot {slot.name} nothing might boot",
                hint="Wait until this boot is confirmed; `update-ctl status` tells what it waits for.",
            )

    def _refuse_other(self, slot: Slot, running: Slot) -> None:
        if running.partuuid != slot.partuuid:
            raise LocalError(
                ErrorCode.BOOT_CONTROL,
                f"slot {slot.name} isn't the one that runs, so nobody can tell whether it is good",
                hint="This is a fault of the configuration or of the agent; nothing was changed.",
            )

    def _priority_above(self, table: Table, slot: Slot) -> int:
        highest = max(priority_of(entry.attributes) for entry in _roots(table) if entry.guid != slot.partuuid)
        if highest >= NIBBLE:
            raise LocalError(
                ErrorCode.BOOT_CONTROL,
                f"another slot has the highest priority there is, {highest}",
                hint=f"Lower it: `cgpt add -i NUMBER -P 1 {self._path}`. The agent itself keeps them at 1 to 3.",
            )
        return highest + 1

    def _confirmed(self, table: Table, slot: Slot) -> Table:
        """Return the table with `slot` marked good, above all that may boot unless somebody armed another above it."""
        mine = self._entry(table, slot)
        priority = priority_of(mine.attributes)
        other = next(entry for entry in find_entries(table, self._layout.labels) if entry.guid != slot.partuuid)
        if slot_of("", other, table.sector_size).bootable and priority_of(other.attributes) > priority:
            return table.changed(_with_bits(mine, max(priority, 1), 0, successful=True))
        other = _with_bits(
            other,
            min(priority_of(other.attributes), 1),
            tries_of(other.attributes),
            successful=successful_of(other.attributes),
        )
        table = table.changed(other)
        highest = max(priority_of(entry.attributes) for entry in _roots(table) if entry.guid != slot.partuuid)
        return table.changed(_with_bits(mine, min(highest + 1, NIBBLE), 0, successful=True))

    def _entry(self, table: Table, slot: Slot) -> Entry:
        for entry in find_entries(table, self._layout.labels):
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
            with self._open_disk(writable) as disk:
                yield disk
        except OSError as error:
            raise self._failed("written" if writable else "read", error) from error

    def _failed(self, what: str, error: OSError) -> LocalError:
        return LocalError(
            ErrorCode.BOOT_CONTROL,
            f"the partition table of {self._path} can't be {what}: {error}",
            hint="Look at the disk and the kernel's log (`dmesg`).",
        )


def refuse_giving_up(running: Slot, other: Slot) -> None:
    """Refuse to end a trial that isn't one, or after which nothing proven would boot.

    Raises:
        LocalError: BOOT_CONTROL.
    """
    if running.successful:
        raise LocalError(
            ErrorCode.BOOT_CONTROL,
            f"slot {running.name}, which runs, is marked good already: there is no trial to give up",
            hint="This is a fault of the agent; nothing was changed.",
        )
    if not (other.successful and other.bootable):
        raise LocalError(
            ErrorCode.BOOT_CONTROL,
            f"slot {other.name} isn't proven, so that slot {running.name} may be all that boots",
            hint="Repair what the health gate names; nothing was changed.",
        )


def damage(found: Found) -> tuple[str, ...]:
    """Return what is wrong with the two copies of a table, in sentences."""
    said = [
        f"the {name} copy of the partition table is damaged: {problem}; the next change of a slot writes it anew"
        for name, problem in (("primary", found.primary_damage), ("backup", found.backup_damage))
        if problem
    ]
    if found.other is not None and found.other.entries != found.table.entries:
        said.append("the two copies of the partition table differ; the primary one counts")
    return tuple(said)


def _roots(table: Table) -> list[Entry]:
    return [entry for entry in table.partitions() if entry.type_guid == COREOS_ROOTFS]


def _proven(entry: Entry) -> bool:
    """Tell whether a running slot's entry is as `confirm` leaves it, with room above."""
    bits = entry.attributes
    return successful_of(bits) and tries_of(bits) == 0 and 0 < priority_of(bits) < NIBBLE


def _with_bits(entry: Entry, priority: int, tries: int, successful: bool) -> Entry:
    bits = set_boot_bits(entry.attributes, priority=priority, tries=tries, successful=successful)
    return entry.with_attributes(bits)
