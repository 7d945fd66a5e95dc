"""What is looked at of the root before an install changes anything."""

from __future__ import annotations

from updated.errors import ErrorCode, RefusedError
from updated.install.medium import Target
from updated.install.operations import hash_of
from updated.payload.manifest import FROM_SOURCE, Image, Manifest, Partition


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
