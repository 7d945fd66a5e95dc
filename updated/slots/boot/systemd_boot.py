"""systemd-boot's way: an entry a slot on the ESP, with a counter in its name until a boot of it was good.

The boot loader boots the first entry of its menu, takes a boot off its counter before, and puts entries whose boots
are used up at the end. So an armed slot needs an entry with a counter that comes before the running one's. It mostly
does, because it is newer. Where it isn't (an older release by hand), the running slot's entry gets the counter `+0`
without a number of boots done, which nothing else writes: it is proven and stands back for the armed one.

The switch comes last, and nothing is removed before what takes its place is on the medium, for FAT keeps no journal.
A unified kernel image is renamed, as systemd does it, where another slot is proven; else it is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from updated.slots.boot import Contents
from updated.slots.boot.arming import plan_entry, staging_of, with_tries
from updated.slots.boot.efivars import LoaderFacts
from updated.slots.boot.entries import BootEntry, Menu, SlotIdentity, on_disk, read_menu
from updated.slots.boot.esp import BootFolder
from updated.slots.boot.esp_changes import EntryWriter
from updated.slots.boot.esp_errors import no_entry, no_esp, refuse_mismatch, translated
from updated.slots.layout import NAMES, Slot, find_verity
from updated.slots.partitions import Partitions, SlotPlaces, refuse_other, refuse_without_fallback


@dataclass(frozen=True, slots=True)
class _View:
    """The slots and the menu as they are at this moment."""

    slots: tuple[Slot, ...]
    running: Slot
    menu: Menu
    identities: Mapping[str, SlotIdentity]
    facts: LoaderFacts

    def other(self) -> Slot:
        return next(slot for slot in self.slots if slot.partuuid != self.running.partuuid)


class SystemdBoot(SlotPlaces):
    """The slots of a host that systemd-boot boots.

    Args:
        parts: the slots' partitions.
        folders: returns the mounted file systems that the boot loader reads, the ESP first.
        facts: returns what the boot loader told of this boot.
    """

    def __init__(
        self, parts: Partitions, folders: Callable[[], Sequence[BootFolder]], facts: Callable[[], LoaderFacts]
    ) -> None:
        self._parts, self._folders, self._facts = parts, folders, facts

    def slots(self) -> tuple[Slot, ...]:
        """Return both slots, A first; their bits are what the entries say.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL, BOOT_FILES.
        """
        with translated("read"):
            return self._read()[0]

    def booted(self) -> Slot:
        """Return the slot whose root is mounted.

        Raises:
            LocalError: SLOT_NOT_FOUND; as `slots`.
        """
        return self._parts.running(self.slots())

    def unmark(self, slot: Slot) -> None:
        """Remove all entries that boot a slot, then the files that only they named, and what is staged for the slot.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: BOOT_CONTROL when the running slot is unproven; BOOT_MISMATCH, BOOT_READ_ONLY; as `slots`.
        """
        with self._changing() as view:
            self._parts.refuse_running(slot, view.running)
            mine = view.menu.of(view.running.name)
            if not mine:
                raise no_entry(view.running)
            EntryWriter(view.menu).clear(slot.name, staging=staging_of(slot))
            if mine[0].name.left is not None:  # it stood back for the slot that is gone
                EntryWriter(view.menu).rename(mine, mine[0].name.plain(), copied=True)

    def arm(self, slot: Slot, tries: int, contents: Contents | None = None) -> None:
        """Give a slot an entry with `tries` boots that the boot loader picks next, and only while they last.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: BOOT_CONTROL when the running slot is unproven; BOOT_ENTRY when no entry can be made of the
                running slot's; BOOT_OUTRANKED when another entry or a set default would be booted instead;
                BOOT_MISMATCH, BOOT_READ_ONLY, NO_SPACE; as `slots`.
        """
        if tries < 1:
            raise ValueError(f"a slot is armed for at least 1 try, not {tries}")
        with self._changing() as view:
            self._parts.refuse_running(slot, view.running)
            menu, running = view.menu, view.running
            plan = plan_entry(menu, slot, running, list(view.identities.values()), contents)
            plan = with_tries(plan, tries, menu=menu, facts=view.facts, slots=(slot, running))
            writer, mine = EntryWriter(menu), menu.of(running.name)
            if plan.stands_back:
                writer.check_room(mine[0])
            writer.put_armed(slot.name, plan.folder, plan.candidate.name, plan.source)
            if plan.stands_back:
                writer.rename(mine, mine[0].name.counted(0), copied=True)

    def confirm(self, slot: Slot) -> None:
        """Take the counter off the running slot's entry, unless systemd's own unit did so already.

        Raises:
            LocalError: BOOT_CONTROL when `slot` isn't the running one; BOOT_ENTRY when it has no entry; BOOT_MISMATCH
                when the entry that was booted is another slot's; BOOT_READ_ONLY; as `slots`.
        """
        with self._changing() as view:
            refuse_other(slot, view.running)
            mine = view.menu.of(slot.name)
            if not mine:
                raise no_entry(slot)
            booted = next((entry for entry in mine if entry.name.identity == view.facts.selected), mine[0])
            same = [entry for entry in mine if entry.name.identity == booted.name.identity]
            other = view.other()
            stands_back = (booted.name.left, booted.name.done) == (0, 0) and other.tries > 0
            if any(entry.name.left is not None for entry in same) and not stands_back:
                alone = not (other.successful and other.bootable)
                EntryWriter(view.menu).rename(same, booted.name.plain(), copied=alone)

    def give_up(self, slot: Slot) -> None:
        """Use up the boots of the running slot's entry, also of one that systemd's unit took the counter off too early.

        Raises:
            LocalError: BOOT_CONTROL when `slot` isn't the running one, or when the other slot isn't proven;
                BOOT_MISMATCH, BOOT_READ_ONLY; as `slots`.
        """
        with self._changing() as view:
            refuse_other(slot, view.running)
            refuse_without_fallback(view.running, view.other())
            mine = view.menu.of(slot.name)
            if not mine:
                raise no_entry(slot)
            EntryWriter(view.menu).rename(mine, mine[0].name.counted(0, max(1, mine[0].name.done)))

    def files_of(self, slot: Slot) -> Mapping[str, Path]:
        """Return where kernel, initrd and UKI lie: the running slot's as its entry names them, the other's as staged.

        Raises:
            LocalError: as `slots`.
        """
        with translated("read"):
            slots, menu, _ = self._read()
            running = self._parts.running(slots)
            mine = menu.of(running.name)
            folder = mine[0].folder if mine else self._boot_folders()[0]
            staged = {name: folder.root / place for name, place in staging_of(slot).items()}
            if not mine or slot.partuuid != running.partuuid:
                return staged
            return {**staged, **_files_of_entry(mine[0])}

    def stale_of(self, slot: Slot) -> tuple[Path, ...]:
        """Return the slot's entries and the files that only they name, and what is staged for it.

        Raises:
            LocalError: as `slots`.
        """
        with translated("read"):
            _, menu, _ = self._read()
            stale = EntryWriter(menu).stale(slot.name, staging_of(slot))
            places = [(entry.folder, entry.path) for entry in menu.of(slot.name)] + stale
            return tuple(folder.root / path for folder, path in places)

    def notes(self) -> tuple[str, ...]:
        """Return which file systems the entries are on, what was booted, and what is wrong.

        Raises:
            LocalError: as `slots`.
        """
        with translated("read"):
            slots, menu, _ = self._read()
            facts, folders = self._facts(), self._boot_folders()
            running = self._parts.running(slots)
        places = " and ".join(str(folder.root) for folder in folders)
        said = [f"The slots are partitions of {self._parts.path}; systemd-boot chooses among the entries on {places}."]
        if facts.selected:
            said.append(f"The boot loader booted the entry {facts.selected}; the root is slot {running.name}'s.")
        else:
            said.append(
                "The boot loader doesn't tell which entry it booted: nobody can see whether entry and root agree."
            )
        return (*said, *menu.problems, *_oddities(menu, facts, running), *self._parts.notes())

    def _boot_folders(self) -> Sequence[BootFolder]:
        folders = self._folders()
        if not folders:
            raise no_esp()
        return folders

    def _read(self) -> tuple[tuple[Slot, ...], Menu, Mapping[str, SlotIdentity]]:
        table = self._parts.read().table
        plain = self._parts.slots(table)
        self._parts.running(plain)  # a system that runs from neither slot is told so first, whatever its ESP is
        hashes = find_verity(table, self._parts.layout)
        identities = {}
        for number, slot in enumerate(plain):
            tree = hashes[number : number + 1]
            identities[slot.name] = SlotIdentity(
                slot.name,
                (slot.partuuid, *(entry.guid for entry in tree)),
                (slot.label, *(entry.label for entry in tree)),
            )
        menu = read_menu(self._boot_folders(), list(identities.values()))
        ranks = menu.ranks()
        return tuple(_with_entries(slot, menu.of(slot.name), ranks) for slot in plain), menu, identities

    @contextmanager
    def _changing(self) -> Iterator[_View]:
        """Read everything, and refuse to change anything while entry and root are of different slots."""
        with translated("written"):
            slots, menu, identities = self._read()
            view = _View(slots, self._parts.running(slots), menu, identities, self._facts())
            refuse_mismatch(menu, view.facts, view.running)
            yield view


def _with_entries(slot: Slot, entries: Sequence[BootEntry], ranks: Mapping[str, int]) -> Slot:
    """Return a slot with the bits that its entries say."""
    if not entries:
        return replace(slot, priority=0, tries=0, successful=False)
    names = [entry.name for entry in entries]
    proven = any(name.left is None or (name.left, name.done) == (0, 0) for name in names)
    tries = 0 if proven else max(name.left or 0 for name in names)
    return replace(slot, priority=ranks[slot.name], tries=tries, successful=proven)


def _files_of_entry(entry: BootEntry) -> dict[str, Path]:
    """Return where the files of an entry lie, by the names that a payload has for them."""
    if entry.file is None:
        return {"uki": entry.folder.root / entry.path}
    named = {"kernel": entry.file.get("linux"), "initrd": entry.file.get("initrd"), "uki": entry.file.get("efi")}
    return {name: entry.folder.root / on_disk(path) for name, path in named.items() if path}


def _oddities(menu: Menu, facts: LoaderFacts, running: Slot) -> Iterator[str]:
    """Say what is unusual about the entries."""
    for letter in NAMES:
        names = [entry.name for entry in menu.of(letter)]
        if len(names) > 1:
            listed = ", ".join(map(str, names))
            yield f"Slot {letter} has several entries ({listed}); the next change of the slot leaves one."
    for entry in menu.entries:
        if entry.contradicts:
            yield f"The entry {entry.name} is called slot {entry.named_for}'s and boots slot {entry.slot}'s root."
    mine = menu.of(running.name)
    if not mine:
        yield f"No entry boots slot {running.name}, which runs."
    elif mine[0].name.left is not None and not facts.count_path:
        yield "The running entry has a counter, and the boot loader doesn't tell of one: the agent takes it off itself."
    yield from _set_defaults(menu, facts)


def _set_defaults(menu: Menu, facts: LoaderFacts) -> Iterator[str]:
    for name, value in (("LoaderEntryDefault", facts.default), ("LoaderEntryOneShot", facts.one_shot)):
        if value:
            yield f"{name} is set to {value}: the boot loader goes by it and not by the counters."
    if menu.default:
        yield f"loader.conf has the default {menu.default}: of the entries that it matches, the first one is booted."
