"""The slots as partitions of one disk, whatever boot loader picks among them: find them, say which runs, open them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from updated.errors import ErrorCode, LocalError, RefusedError
from updated.slots.devices import partition_node
from updated.slots.disk import Disk, FileDisk
from updated.slots.gpt import Entry, Table
from updated.slots.layout import NAMES, HostPaths, Layout, Slot, find_entries, find_verity, place_of, slot_of
from updated.slots.running import how_told
from updated.slots.tables import Found, read_table

Opener = Callable[[bool], AbstractContextManager[Disk]]


class Partitions:
    """The partitions of one disk, a block device or an image file.

    Args:
        disk: the device node or the image file.
        booted_partuuids: what the system may be running from; at most one of the slots.
        layout: the labels of the slots and of their hash partitions.
        host: where the kernel tells about partitions' device nodes.
        open_disk: opens the medium, for writing when told True; a test puts a recorder here.
    """

    def __init__(
        self,
        disk: Path,
        *,
        booted_partuuids: tuple[str, ...],
        layout: Layout,
        host: HostPaths | None = None,
        open_disk: Opener | None = None,
    ) -> None:
        self.path = disk.resolve()
        self.booted = booted_partuuids
        self.layout = layout
        self._host = host or HostPaths()
        self._open_disk = open_disk or (lambda writable: FileDisk(self.path, writable=writable))

    def read(self) -> Found:
        """Read the disk's table.

        Raises:
            LocalError: GPT_INVALID, BOOT_CONTROL.
        """
        with self.opened(writable=False) as disk:
            return read_table(disk)

    def entries(self, table: Table) -> tuple[Entry, Entry]:
        """Return the table's entries of slot A and slot B.

        Raises:
            LocalError: SLOT_NOT_FOUND, GPT_INVALID.
        """
        return find_entries(table, self.layout)

    def slots(self, table: Table) -> tuple[Slot, ...]:
        """Return both slots, A first, with the boot bits that the table has.

        Raises:
            LocalError: SLOT_NOT_FOUND, GPT_INVALID.
        """
        pairs = zip(NAMES, self.entries(table), strict=True)
        return tuple(slot_of(name, entry, table.sector_size) for name, entry in pairs)

    def running(self, slots: tuple[Slot, ...]) -> Slot:
        """Return the one of both that runs.

        Raises:
            LocalError: SLOT_NOT_FOUND when it is none of the two or could be both.
        """
        running = [slot for slot in slots if slot.partuuid in self.booted]
        if len(running) == 1:
            return running[0]
        raise LocalError(
            ErrorCode.SLOT_NOT_FOUND,
            f"this system runs from {' and '.join(self.booted) or 'no known partition'}:"
            f" {'both slots' if running else 'no slot'} of {self.path}",
            hint="Look at slots.disk and slots.labels in the settings, and at root= of the kernel command line.",
        )

    def refuse_running(self, slot: Slot, running: Slot) -> None:
        """Refuse to change the slot that runs, or any while the running one isn't proven.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: BOOT_CONTROL.
        """
        if slot.partuuid in (*self.booted, running.partuuid):
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

    def place(self, place: range) -> tuple[Path, int]:
        """Return what to open for these bytes of the disk, a partition's node or the image, and the offset in there.

        Raises:
            LocalError: BOOT_CONTROL; the disk is gone.
        """
        try:
            node = partition_node(self.path, place, self._host) if self.path.is_block_device() else None
        except OSError as error:
            raise self._failed("looked at", error) from error
        return (node, 0) if node else (self.path, place.start)

    def verity_of(self, slot: Slot) -> tuple[Path, int, int] | None:
        """Return node or image file, offset and size of the slot's hash partition; None without `slots.verity_labels`.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL.
        """
        if not self.layout.verity_labels:
            return None
        table = self.read().table
        place = place_of(find_verity(table, self.layout)[NAMES.index(slot.name)], table.sector_size)
        return (*self.place(place), len(place))

    def notes(self) -> tuple[str, ...]:
        """Return how the running slot was told, and what is wrong with either copy of the table.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL.
        """
        found = self.read()
        running = self.running(self.slots(found.table))
        return (f"Slot {running.name} runs: {how_told(running.partuuid, self._host)}.", *damage(found))

    @contextmanager
    def opened(self, *, writable: bool) -> Iterator[Disk]:
        """Open the disk for as long as its table is read or changed.

        Raises:
            LocalError: BOOT_CONTROL; it can't be opened, read or written.
        """
        try:
            with self._open_disk(writable) as disk:
                yield disk
        except OSError as error:
            raise self._failed("written" if writable else "read", error) from error

    def _failed(self, what: str, error: OSError) -> LocalError:
        return LocalError(
            ErrorCode.BOOT_CONTROL,
            f"the partition table of {self.path} can't be {what}: {error}",
            hint="Look at the disk and the kernel's log (`dmesg`).",
        )


class SlotPlaces:
    """The verbs of BootControl that are the same for every boot loader whose slots are partitions."""

    _parts: Partitions

    def path_of(self, slot: Slot) -> tuple[Path, int]:
        """Return the partition's own device node, or the image file and the slot's offset in it.

        Raises:
            LocalError: BOOT_CONTROL; the disk is gone.
        """
        return self._parts.place(slot.place)

    def verity_of(self, slot: Slot) -> tuple[Path, int, int] | None:
        """Return node or image file, offset and size of the slot's hash partition; None without `slots.verity_labels`.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL.
        """
        return self._parts.verity_of(slot)

    def files_of(self, slot: Slot) -> Mapping[str, Path]:
        """Return the places that the settings name for a payload's kernel and initrd."""
        return self._parts.layout.files_of(slot)

    def stale_of(self, slot: Slot) -> tuple[Path, ...]:
        """Return nothing: a slot's files stay where they are until the install writes over them."""
        return ()


def refuse_other(slot: Slot, running: Slot) -> None:
    """Refuse to judge a slot that doesn't run.

    Raises:
        LocalError: BOOT_CONTROL.
    """
    if running.partuuid != slot.partuuid:
        raise LocalError(
            ErrorCode.BOOT_CONTROL,
            f"slot {slot.name} isn't the one that runs, so nobody can tell whether it is good",
            hint="This is a fault of the configuration or of the agent; nothing was changed.",
        )


def refuse_without_fallback(running: Slot, other: Slot) -> None:
    """Refuse to end the running slot's trial when nothing proven would boot after it.

    Raises:
        LocalError: BOOT_CONTROL.
    """
    if not (other.successful and other.bootable):
        raise LocalError(
            ErrorCode.BOOT_CONTROL,
            f"slot {other.name} isn't proven, so that slot {running.name} may be all that boots",
            hint="Repair what the health gate names; nothing was changed.",
        )


def damage(found: Found) -> tuple[str, ...]:
    """Return what is wrong with the two copies of a table, in sentences."""
    said = [
        f"The {name} copy of the partition table is damaged ({problem}); the next confirmed boot mends it."
        for name, problem in (("primary", found.primary_damage), ("backup", found.backup_damage))
        if problem
    ]
    if found.other is not None and found.other.entries != found.table.entries:
        said.append("The two copies of the partition table differ; boot loaders go by the primary one.")
    return tuple(said)
