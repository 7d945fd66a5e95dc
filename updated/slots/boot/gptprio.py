"""ChromeOS's and CoreOS's way: priority, tries and success as attribute bits of the slots' GPT entries.

The boot loader picks the highest priority among the slots that are successful or have tries left, and takes one try
off an unproven slot before it boots it.

The running slot's entry is written in two cases only, `confirm` and `give_up`. A fresh slot's priority must be above
the running one's, and priorities have four bits: so `confirm`, which writes the entry anyway, puts both as low as
their order allows. From then on 1 and 2 run, 3 is armed, and a running slot at 15 exists only where something else
marked it; `confirm` lowers that too, and `arm` refuses rather than touch the entry.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from updated.errors import ErrorCode, LocalError
from updated.slots.boot import Contents
from updated.slots.disk import Disk
from updated.slots.gpt import COREOS_ROOTFS, NIBBLE, Entry, Table, priority_of, set_boot_bits, successful_of, tries_of
from updated.slots.layout import HostPaths, Layout, Slot, slot_of
from updated.slots.partitions import Opener, Partitions, SlotPlaces, refuse_other, refuse_without_fallback
from updated.slots.tables import Found, read_table, write_table


class GptPrio(SlotPlaces):
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
        self._parts = Partitions(disk, booted_partuuids=booted_partuuids, layout=layout, host=host, open_disk=open_disk)

    def slots(self) -> tuple[Slot, ...]:
        """Return both slots, A first.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL.
        """
        return self._parts.slots(self._parts.read().table)

    def booted(self) -> Slot:
        """Return the slot that runs.

        Raises:
            LocalError: SLOT_NOT_FOUND when it is none of the two or could be both; as `slots`.
        """
        return self._parts.running(self.slots())

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
        """Mark the running slot as good, put the priorities as low as their order allows, mend a damaged copy.

        Each table that a cut may leave boots the running slot, or what was armed above it before.

        Raises:
            LocalError: BOOT_CONTROL when `slot` isn't the running one; as `slots`.
        """
        with self._parts.opened(writable=True) as disk:
            found = read_table(disk)
            refuse_other(slot, self._parts.running(self._parts.slots(found.table)))
            if all(_proven(self._entry(copy, slot)) for copy in found.copies):
                _mend(disk, found)
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
        with self._parts.opened(writable=True) as disk:
            found = read_table(disk)
            slots = self._parts.slots(found.table)
            running = self._parts.running(slots)
            refuse_other(slot, running)
            _refuse_proven(running)
            refuse_without_fallback(running, next(one for one in slots if one.partuuid != running.partuuid))
            mine = self._entry(found.table, slot)
            spent = _with_bits(mine, priority_of(mine.attributes), 0, successful=False)
            if any(self._entry(copy, slot).attributes != spent.attributes for copy in found.copies):
                write_table(disk, found, found.table.changed(spent))

    def notes(self) -> tuple[str, ...]:
        """Return which disk it is, and what is wrong with either copy of its table.

        Raises:
            LocalError: GPT_INVALID, BOOT_CONTROL.
        """
        how = f"The slots are partitions of {self._parts.path}; their GPT attributes choose (gptprio)."
        return (how, *self._parts.notes())

    def _change(self, slot: Slot, bits: Callable[[Table], tuple[int, int, bool]]) -> None:
        """Set another slot's boot bits in both copies, unless each good copy has them already.

        A damaged copy is made anew with the change; where nothing needs to change, nothing is repaired either.
        """
        with self._parts.opened(writable=True) as disk:
            found = read_table(disk)
            self._parts.refuse_running(slot, self._parts.running(self._parts.slots(found.table)))
            changed = _with_bits(self._entry(found.table, slot), *bits(found.table))
            if any(self._entry(copy, slot).attributes != changed.attributes for copy in found.copies):
                write_table(disk, found, found.table.changed(changed))

    def _priority_above(self, table: Table, slot: Slot) -> int:
        highest = max(priority_of(entry.attributes) for entry in _roots(table) if entry.guid != slot.partuuid)
        if highest >= NIBBLE:
            raise LocalError(
                ErrorCode.BOOT_CONTROL,
                f"another slot has the highest priority there is, {highest}",
                hint=f"Lower it: `cgpt add -i NUMBER -P 1 {self._parts.path}`. The agent itself keeps them at 1 to 3.",
            )
        return highest + 1

    def _confirmed(self, table: Table, slot: Slot) -> Table:
        """Return the table with `slot` marked good, above all that may boot unless somebody armed another above it."""
        mine = self._entry(table, slot)
        priority = priority_of(mine.attributes)
        other = next(entry for entry in self._parts.entries(table) if entry.guid != slot.partuuid)
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
        for entry in self._parts.entries(table):
            if entry.guid == slot.partuuid:
                return entry
        raise LocalError(
            ErrorCode.SLOT_NOT_FOUND,
            f"slot {slot.name} is gone from {self._parts.path}",
            hint="Look at the disk with `lsblk`.",
        )


def _mend(disk: Disk, found: Found) -> None:
    """Write a damaged copy anew where there is room for it; `notes` goes on telling of one that can't be written."""
    if found.primary_damage or found.backup_damage:
        with suppress(LocalError):  # the boot is as good as it is without it
            write_table(disk, found, found.table)


def _roots(table: Table) -> list[Entry]:
    return [entry for entry in table.partitions() if entry.type_guid == COREOS_ROOTFS]


def _proven(entry: Entry) -> bool:
    """Tell whether a running slot's entry is as `confirm` leaves it, with room above."""
    bits = entry.attributes
    return successful_of(bits) and tries_of(bits) == 0 and 0 < priority_of(bits) < NIBBLE


def _refuse_proven(running: Slot) -> None:
    if running.successful:
        raise LocalError(
            ErrorCode.BOOT_CONTROL,
            f"slot {running.name}, which runs, is marked good already: there is no trial to give up",
            hint="This is a fault of the agent; nothing was changed.",
        )


def _with_bits(entry: Entry, priority: int, tries: int, successful: bool) -> Entry:
    bits = set_boot_bits(entry.attributes, priority=priority, tries=tries, successful=successful)
    return entry.with_attributes(bits)
