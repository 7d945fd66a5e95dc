"""Which partitions of a payload make one slot: its root, its verity tree, and the files that it is booted with.

They are written, checked and switched as one. A payload whose parts contradict each other is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from updated.errors import ErrorCode, RefusedError
from updated.payload.manifest import Manifest, Partition
from updated.payload.parse import KERNEL

ROOT, VERITY, INITRD, UKI = "root", "verity", "initrd", "uki"
BOOT_FILES = (KERNEL, INITRD, UKI)  # in the order in which a payload has them
SET_NAMES = frozenset({VERITY, *BOOT_FILES})  # what the partition for the root can't be called


@dataclass(frozen=True, slots=True)
class SlotSet:
    """A payload's partitions by their part in a slot."""

    root: Partition
    verity: Partition | None
    files: Mapping[str, Partition]  # by their names in BOOT_FILES
    root_hash: str | None  # lower-case hex; with `verity` only


def slot_set(manifest: Manifest) -> SlotSet:
    """Sort a payload's partitions; a single one for the root may be called anything.

    Raises:
        RefusedError: PARTITION_UNKNOWN, SLOT_SET_INVALID.
    """
    used = {part.name: part for part in manifest.partitions if not part.skipped}
    others = [name for name in used if name not in SET_NAMES]
    name = ROOT if ROOT in others else next(iter(others), None)
    unknown = [other for other in others if other != name]
    if name is None or unknown:
        raise RefusedError(
            ErrorCode.PARTITION_UNKNOWN,
            f"the payload has partitions that this host has no place for: {', '.join(unknown) or 'none of its own'}",
            hint="Offer a payload for this host's layout.",
        )
    files = {name: used[name] for name in BOOT_FILES if name in used}
    found = SlotSet(used[name], used.get(VERITY), files, manifest.root_hash)
    _check(found)
    return found


def _check(found: SlotSet) -> None:
    problem = None
    if found.root_hash is not None and found.verity is None:
        problem = f"it names the root hash {found.root_hash} and brings no verity tree"
    elif found.verity is not None and found.root_hash is None:
        problem = "it brings a verity tree and doesn't say which root hash the tree has"
    elif INITRD in found.files and KERNEL not in found.files:
        problem = "it brings an initrd without a kernel"
    elif UKI in found.files and KERNEL in found.files:
        problem = "it brings both a UKI and a kernel, and only one of them can be booted"
    if problem is not None:
        raise RefusedError(
            ErrorCode.SLOT_SET_INVALID,
            f"the payload's parts don't make one slot: {problem}",
            hint="Build it with `update-payload build`, which checks that.",
        )
