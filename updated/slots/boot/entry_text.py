"""The type 1 entry of a slot, made of the running slot's own entry (pure).

What names the running slot's partitions names the other's; version, files and root hash are what the install put
there. So a boot loader that falls back to an entry falls back to its root as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from updated.slots.boot.bls import EntryFile, check_printable

ROOT_HASH = re.compile(r"(?<!\S)(?P<key>\"?(?:roothash|usrhash)=)[0-9A-Fa-f]+")
HEX = re.compile(r"[0-9a-f]{32,128}")
SORT_KEY = "updated"  # of an entry whose predecessor has none
OTHER_PROGRAMS = ("efi", "uki")  # what an entry may start instead of a kernel


@dataclass(frozen=True, slots=True)
class PartitionNames:
    """PARTUUIDs and labels of a slot's partitions, root first, then the hash partition if there is one."""

    partuuids: tuple[str, ...]
    labels: tuple[str, ...]


def derive_entry(
    template: EntryFile,
    *,
    names: tuple[PartitionNames, PartitionNames],
    version: str,
    root_hash: str | None,
    files: tuple[str, str | None],
) -> EntryFile:
    """Make a slot's entry of the running slot's.

    Args:
        template: the running slot's entry.
        names: of the running slot's partitions, and of the slot's.
        version: of the release; it takes the place of the old one in the title, too.
        root_hash: of the slot's verity tree, lower-case hex; None when it has none.
        files: the paths of kernel and initrd on the boot loader's file system; None: the kernel needs no initrd.

    Raises:
        ValueError: the result wouldn't boot the slot's own root, would be unverified where the running slot is verified
            or the other way round, or has something in it that can't be written.
    """
    check_printable("the version", version, 128)
    kernel, initrd = files
    old = template.get("version")
    entry = template.put("version", [version])
    if old and old in template.get("title"):
        entry = entry.put("title", [template.get("title").replace(old, version)])
    if not template.get("sort-key"):
        entry = entry.put("sort-key", [SORT_KEY])
    # further initrds in front, as a processor's microcode is, belong to the machine and not to the release
    shared = template.values("initrd")[:-1]
    for key in OTHER_PROGRAMS:
        entry = entry.put(key, [])
    entry = entry.put("linux", [kernel]).put("initrd", [*shared, initrd] if initrd else list(shared))
    options = _options(template.options, *names, root_hash)
    return entry.put("options", [check_printable("the options", options)])


def _options(options: str, own: PartitionNames, other: PartitionNames, root_hash: str | None) -> str:
    changed = options
    for mine, its in zip(own.partuuids, other.partuuids, strict=True):
        changed = re.sub(re.escape(mine), its, changed, flags=re.IGNORECASE)
    for mine, its in zip(own.labels, other.labels, strict=True):
        pattern = rf"(PARTLABEL=|/by-partlabel/){re.escape(mine)}(?![^\s\"',:])"
        changed = re.sub(pattern, lambda found, its=its: found[1] + its, changed)  # type: ignore[misc]
    if changed == options and not ROOT_HASH.search(options):
        raise ValueError("its options name the root neither by PARTUUID nor by PARTLABEL nor by a root hash")
    return _with_root_hash(changed, root_hash)


def _with_root_hash(options: str, root_hash: str | None) -> str:
    verified = bool(ROOT_HASH.search(options))
    if root_hash is None and verified:
        raise ValueError("its options have a root hash, and the release has none")
    if root_hash is None:
        return options
    if not verified:
        raise ValueError("the release has a root hash, and its options have no roothash= or usrhash=")
    if not HEX.fullmatch(root_hash):
        raise ValueError(f"the root hash {root_hash[:64]!r} is none")
    return ROOT_HASH.sub(lambda found: found["key"] + root_hash, options)
