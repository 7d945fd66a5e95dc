"""What is looked at, and opened, before an install changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from updated.common.log import get_logger
from updated.errors import ErrorCode, RefusedError
from updated.install.files import Beside, FileTarget, OldFile
from updated.install.medium import Target
from updated.install.operations import hash_of
from updated.payload.limits import LIMITS
from updated.payload.manifest import FROM_SOURCE, IN_PLACE, Image, Manifest, Partition

SLOT_PARTITION = "root"  # the partition that goes into the slot; a payload with one partition may call it otherwise

log = get_logger("install")


def slot_partition(manifest: Manifest, file_targets: Mapping[str, Path]) -> Partition:
    """Return the partition that goes into the slot; every other one must have a place or be skippable.

    Raises:
        RefusedError: PARTITION_UNKNOWN.
    """
    partitions = [part for part in manifest.partitions if not part.is_file]
    named = [part for part in partitions if part.name == SLOT_PARTITION] or partitions[:1]
    others = [part.name for part in partitions if part not in named and part.name not in file_targets]
    if not named or others:
        raise RefusedError(
            ErrorCode.PARTITION_UNKNOWN,
            f"the payload has partitions that this host has no place for: {', '.join(others) or 'none of its own'}",
            hint="Offer a payload for this host's layout, or configure where the others go.",
        )
    return named[0]


def image_of(image: Image | None) -> Image:
    """Return an image that parsing has made sure of."""
    if image is None:
        raise AssertionError("parse_manifest refuses partitions without an image")
    return image


def check_source(manifest: Manifest, root: Partition, running: Target) -> None:
    """See that the running slot is the image that a delta was made from.

    Raises:
        RefusedError: SOURCE_MISMATCH, or NEW_PARTITION_INFO when the delta doesn't say.
        LocalError: READ_BACK.
    """
    in_place = manifest.changes_in_place(root)
    if not in_place and not root.kinds & FROM_SOURCE:
        return
    if in_place and root.old is None:
        raise RefusedError(
            ErrorCode.NEW_PARTITION_INFO,
            "the delta doesn't say which image it was made from",
            hint="Offer a full payload.",
        )
    if root.old is not None and (root.old.size > running.size or hash_of(running, root.old.size) != root.old.sha256):
        raise RefusedError(
            ErrorCode.SOURCE_MISMATCH,
            "this delta is for another old image than the one that runs here",
            hint="Offer a full payload, or the delta for the version that runs here.",
        )


def open_files(
    manifest: Manifest, places: Mapping[str, Path], old_places: Mapping[str, Path], stack: ExitStack
) -> dict[str, Beside]:
    """Open the files that go beside the slot, by partition.

    Args:
        manifest: what comes.
        places: where they go.
        old_places: where the running slot's are; they may be the same.
        stack: closes them, and removes what wasn't committed.

    Raises:
        RefusedError: LIMIT_EXCEEDED; SOURCE_MISMATCH, NEW_PARTITION_INFO when one is a delta to another file.
        LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK.
    """
    files = {}
    for part in manifest.partitions:
        if part.skipped:
            log.warning("procedure-skipped", name=part.name, why="nothing is done with it on this host")
        elif part.name in places:
            old = _open_old(part, old_places, stack) if part.kinds & (FROM_SOURCE | IN_PLACE) else None
            target = stack.enter_context(FileTarget(places[part.name], _file_image(part)))
            target.check_room()
            if old is not None and manifest.changes_in_place(part):
                target.begin_with(old, manifest.block_size)
            files[part.name] = Beside(target, old)
    return files


def _open_old(part: Partition, places: Mapping[str, Path], stack: ExitStack) -> OldFile:
    if part.old is None or part.name not in places:
        raise RefusedError(
            ErrorCode.NEW_PARTITION_INFO,
            f"{part.name} comes as a delta, and it isn't said which file it was made from",
            hint=f"Offer a payload whose {part.name} is whole; `update-payload inspect` shows its operations.",
        )
    old = stack.enter_context(OldFile(places[part.name], part.old))
    old.check()
    return old


def _file_image(part: Partition) -> Image:
    """Return what a file will be; no slot's size bounds it."""
    image = image_of(part.new)
    if image.size > LIMITS.file_bytes:
        raise RefusedError(
            ErrorCode.LIMIT_EXCEEDED,
            f"{part.name} has {image.size} bytes, and a file beside the slot has {LIMITS.file_bytes} at most",
            hint="Offer a payload with a smaller kernel.",
        )
    return image
