"""Which entry a slot is armed with, and whether the boot loader would pick it and come back from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from updated.slots.boot import Contents
from updated.slots.boot.bls import CONF, EFI, EntryName
from updated.slots.boot.bls_order import Candidate
from updated.slots.boot.efivars import LoaderFacts
from updated.slots.boot.entries import BootEntry, Menu, SlotIdentity, candidate_of, picked
from updated.slots.boot.entry_text import PartitionNames, derive_entry
from updated.slots.boot.esp import BootFolder
from updated.slots.boot.esp_errors import bad_entry, no_entry, outranked
from updated.slots.boot.uki import parse_image
from updated.slots.layout import Slot

SAVED = "@saved"  # loader.conf: what was booted last


@dataclass(frozen=True, slots=True)
class Plan:
    """An entry to be: where it goes, how it is sorted, and its content or the image that becomes it."""

    folder: BootFolder
    candidate: Candidate
    source: bytes | str
    stands_back: bool = False  # whether the running slot's entry has to stand back for it


def staging_of(slot: Slot) -> dict[str, str]:
    """Return where an install puts a slot's boot files, below the root of the boot loader's file system.

    No boot loader takes anything there for an entry.
    """
    folder = f"updated/slot-{slot.name.lower()}"
    return {"kernel": f"{folder}/linux", "initrd": f"{folder}/initrd", "uki": f"{folder}/uki.efi"}


def plan_entry(
    menu: Menu,
    slot: Slot,
    running: Slot,
    identities: Sequence[SlotIdentity],
    contents: Contents | None,
) -> Plan:
    """Return the entry of a slot, without a counter.

    Raises:
        LocalError: BOOT_ENTRY; there is none, or none can be made of the running slot's.
        OSError: a file can't be read.
    """
    mine, theirs = menu.of(running.name), menu.of(slot.name)
    if not mine:
        raise no_entry(running)
    try:
        if contents is None:
            return _as_it_was(slot, theirs)
        folder, staging = mine[0].folder, staging_of(slot)
        if "uki" in contents.files:
            return _of_image(folder, slot, staging["uki"])
        return _of_files(mine[0], slot, identities, contents)
    except ValueError as error:
        raise bad_entry(slot, error) from error


def _as_it_was(slot: Slot, entries: Sequence[BootEntry]) -> Plan:
    if not entries:
        raise no_entry(slot)
    entry = entries[0]
    source = entry.path if entry.file is None else entry.file.encode()
    return Plan(entry.folder, replace(entry.candidate, name=entry.name.plain()), source)


def _of_image(folder: BootFolder, slot: Slot, staged: str) -> Plan:
    image = parse_image(lambda offset, length: folder.read(staged, offset, length))
    name = EntryName(f"slot-{slot.name.lower()}", EFI)
    return Plan(folder, Candidate(name, image.sort_key, "", image.version), staged)


def _of_files(template: BootEntry, slot: Slot, identities: Sequence[SlotIdentity], contents: Contents) -> Plan:
    if template.file is None:
        raise ValueError("the running slot boots a unified kernel image, and the release has none")
    if "kernel" not in contents.files:
        raise ValueError("the release has neither a kernel nor a unified kernel image")
    staging = staging_of(slot)
    own, other = sorted(identities, key=lambda identity: identity.name == slot.name)
    entry = derive_entry(
        template.file,
        names=(PartitionNames(own.partuuids, own.labels), PartitionNames(other.partuuids, other.labels)),
        version=contents.version,
        root_hash=contents.root_hash,
        files=(f"/{staging['kernel']}", f"/{staging['initrd']}" if "initrd" in contents.files else None),
    )
    name = EntryName(f"slot-{slot.name.lower()}", CONF)
    return Plan(template.folder, candidate_of(name, entry), entry.encode())


def with_tries(plan: Plan, tries: int, *, menu: Menu, facts: LoaderFacts, slots: tuple[Slot, Slot]) -> Plan:
    """Return the plan with a counter, once it is sure that its entry is booted next and led back from.

    Args:
        plan: as `plan_entry` has it.
        tries: boots left.
        menu: the entries as they are.
        facts: what the boot loader is set to.
        slots: the one that is armed, and the one that runs.

    Raises:
        LocalError: BOOT_OUTRANKED; something else would be booted.
    """
    slot, running = slots
    new = replace(plan.candidate, name=plan.candidate.name.counted(tries))
    rest = [entry.candidate for entry in menu.entries if entry.slot not in (slot.name, running.name)]
    mine = [entry.candidate for entry in menu.of(running.name)]
    stood = [replace(mine[0], name=mine[0].name.counted(0))]
    pattern = _pattern(menu, facts, slot)
    for stands_back, own in ((False, mine), (True, stood)):
        if _is_tried_and_left(new, own, rest, pattern):
            return replace(plan, candidate=new, stands_back=stands_back)
    blocking = [candidate for candidate in picked([*rest, *stood, new], pattern) if candidate != new]
    spent = replace(new, name=new.name.counted(0, tries))
    blocking += [candidate for candidate in picked([*rest, *stood, spent], pattern) if candidate not in stood]
    raise outranked(slot, f"the boot loader would pick {' or '.join(str(item.name) for item in blocking)}")


def _is_tried_and_left(new: Candidate, own: Sequence[Candidate], rest: Sequence[Candidate], pattern: str) -> bool:
    """Tell whether the new entry is booted while it has boots left, and one of the running slot's afterwards."""
    if picked([*rest, *own, new], pattern) != [new]:
        return False
    spent = replace(new, name=new.name.counted(0, 1))
    return all(candidate in own for candidate in picked([*rest, *own, spent], pattern))


def _pattern(menu: Menu, facts: LoaderFacts, slot: Slot) -> str:
    """Return the pattern that the default entry is looked for with.

    Raises:
        LocalError: BOOT_OUTRANKED; the boot loader is told to boot something for once, or what it booted last.
    """
    if facts.one_shot:
        raise outranked(slot, f"LoaderEntryOneShot is set to {facts.one_shot}")
    for where, pattern in (("LoaderEntryDefault", facts.default), ("default in loader.conf", menu.default)):
        if pattern == SAVED:
            raise outranked(slot, f"{where} is {SAVED}")
    return facts.default or menu.default
