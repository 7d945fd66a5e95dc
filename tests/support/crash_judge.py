"""Judges what a power cut left: may anything boot that isn't whole, does any file claim what isn't so?

The boot loader model reads the disk; slots, kernels and state are compared with what the host may have, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.support.bootloader import Choice, NothingBootableError, choose_from, valid_copies
from tests.support.crash_host import INDEX, NEW, OLD, OLDER, V1, Releases
from tests.support.crash_images import Image
from updated.install.stream import believe
from updated.payload.framing import HEADER_BYTES, parse_header
from updated.payload.manifest import Extent

Blocks = tuple[Extent, ...]
NO_PICK, TORN = "no slot boots", "a torn slot may boot"


class Judge:
    """Knows the releases; `kind` is the payload's, `healthy` whether the new release may be found good."""

    def __init__(self, releases: Releases, kind: str, *, healthy: bool = True) -> None:
        self._images, self._trees, self._healthy = releases.images, releases.trees, healthy
        self._files = {name: known for name, known in releases.files.items() if name == "vmlinuz" or kind != V1}
        self._verified = kind != V1
        raw = releases.of[kind].payload.read_bytes()
        start = parse_header(raw[:HEADER_BYTES]).data_start
        manifest = believe(raw[:start], None, allow_unsigned_metadata=True).manifest
        self._writes: list[Blocks] = [op.dst_extents for op in manifest.partitions[0].operations]
        self._block_size = manifest.block_size
        self._data = raw[start:]

    def faults(self, image: Image) -> list[str]:
        """Return what is wrong."""
        disk = image["disk.img"]
        try:
            choose_from(disk)
        except NothingBootableError as error:
            return [f"{NO_PICK}: {error}"]
        copies = [copy.slots() for copy in valid_copies(disk)]
        return [
            *self._slot_faults(disk, copies),
            *self._file_faults(image, copies),
            *self._tree_faults(disk, copies),
            *self._state_faults(image, copies),
        ]

    def _slot_faults(self, disk: bytes, copies: list[list[Choice]]) -> Iterator[str]:
        for slots in copies:
            if not any(slot.may_boot and slot.successful for slot in slots):
                yield f"{NO_PICK} once the tries of an unproven one run out"
            for slot in slots:
                whole = (OLD,) if slot.label == "USR-A" else (OLDER, NEW)
                if slot.may_boot and self._version(disk, slot) not in whole:
                    yield f"{TORN}: {slot.label}"
                if slot.successful and not self._healthy and self._version(disk, slot) == NEW:
                    yield "a release that was never healthy is marked good"

    def _version(self, disk: bytes, slot: Choice) -> str:
        content = disk[slot.offset : slot.offset + slot.size]
        return next((version for version, image in self._images.items() if image == content), "torn")

    def _file_faults(self, image: Image, copies: list[list[Choice]]) -> Iterator[str]:
        """A file is whole or not there; where a slot may boot, its files are there, and of the root's release."""
        for name, known in self._files.items():
            for label in ("USR-A", "USR-B"):
                found = image.get(f"boot/{name}-{label[-1].lower()}")
                version = next((version for version, content in known.items() if content == found), "torn")
                version = "nobody" if found is None else version
                if version == "torn":
                    yield f"{name} is torn"
                    continue
                for slot in (slot for slots in copies for slot in slots if slot.label == label and slot.may_boot):
                    wanted = self._version(image["disk.img"], slot)
                    if version != wanted:
                        yield f"slot {label[-1]} has {wanted} and may boot with the {name} of {version}"

    def _tree_faults(self, disk: bytes, copies: list[list[Choice]]) -> Iterator[str]:
        """Where a slot may boot, the tree in its hash partition is the root's; the running slot's is never written."""
        if not self._verified:
            return
        places = valid_copies(disk)[0].hash_partitions()
        for slot in (slot for slots in copies for slot in slots if slot.may_boot or slot.label == "USR-A"):
            wanted = self._version(disk, slot)
            tree = self._trees.get(wanted, b"")
            if disk[places[slot.label] : places[slot.label] + len(tree)] != tree:
                yield f"{TORN}: {slot.label} has {wanted} and the tree of another"

    def _state_faults(self, image: Image, copies: list[list[Choice]]) -> Iterator[str]:
        other = [slots[index] for slots in copies for index in range(len(slots)) if slots[index].label == "USR-B"]
        try:
            state = json.loads(image.get("state/state.json", b"{}"))
            floor = int(image.get("state/rollback-floor", b"0"))
        except ValueError:
            yield "the state is torn"
            return
        pending = state.get("pending") or {}
        for slot in other:
            armed = slot.may_boot and not slot.successful
            if armed and slot.tries == 3 and pending.get("partuuid") != slot.partuuid:
                yield "armed, and nobody remembers it"
        if self._healthy and pending.get("armed") and not any(slot.priority for slot in other):
            yield "remembered as armed, and isn't"
        if floor == INDEX and not any(slot.successful for slot in other):
            yield "the rollback floor is above what was found good"
        if self._healthy and state.get("failed_versions"):
            yield "a good version is remembered as bad"
        yield from self._checkpoint_faults(image, other[0])

    def _checkpoint_faults(self, image: Image, slot: Choice) -> Iterator[str]:
        try:
            checkpoint = json.loads(image.get("state/install/checkpoint.json", b"{}"))
        except ValueError:
            yield "the checkpoint is torn"
            return
        kept = checkpoint.get("kept", 0)
        if image.get("state/install/payload", b"")[:kept] != self._data[:kept]:
            yield "the checkpoint claims bytes that weren't kept"
        size, new = self._block_size, self._images[NEW]
        for extent in (extent for extents in self._writes[: checkpoint.get("operations", 0)] for extent in extents):
            begin, end = extent.start_block * size, (extent.start_block + extent.num_blocks) * size
            if image["disk.img"][slot.offset + begin : slot.offset + end] != new[begin:end]:
                yield "the checkpoint claims what isn't on the medium"
                return
