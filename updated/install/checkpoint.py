"""Remembers an install that is under way, so that it goes on after a restart without fetching anything twice.

A folder of the state directory has the release's metadata, its index, the bytes of a payload that can be trusted only
as a whole (`kept.py`), and a checkpoint: which slot, how many of its operations and how many of those bytes are durably
there. The checkpoint is written only after the flush of what it claims. Nothing in it is trusted: the metadata are
verified again, what is in place is hashed again where an index tells how, and the read-back of the whole partition
judges all of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from updated.common.durable import read_bounded, remove_durably, sync_directory, write_atomic
from updated.errors import ErrorCode, LocalError
from updated.payload.framing import HEADER_BYTES
from updated.payload.limits import LIMITS

CHECKPOINT, METADATA, INDEX, PAYLOAD = "checkpoint.json", "metadata", "index", "payload"
CHECKPOINT_LIMIT = 4096  # bytes
CHECKPOINT_BYTES = 64 * 1024 * 1024  # of data and content: a second or two of work is what a cut costs
METADATA_LIMIT = HEADER_BYTES + LIMITS.manifest_bytes + LIMITS.signature_bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far an install is."""

    release: str  # what the offer, or the operator, calls it: its SHA-256 if known
    metadata: str  # SHA-256 of the metadata, hexadecimal
    partuuid: str  # of the slot that is written
    operations: int = 0  # of the slot's partition that are durable, and all before them
    kept: int = 0  # bytes of the payload, from its first data, that are durable in the folder

    def is_of(self, other: Checkpoint) -> bool:
        """Tell whether both are of the same release in the same slot."""
        return (self.metadata, self.partuuid) == (other.metadata, other.partuuid)


class Journal:
    """The folder; damaged or foreign content counts as none."""

    def __init__(self, folder: Path, *, every_bytes: int = CHECKPOINT_BYTES) -> None:
        """Take a folder, which need not exist, and how many bytes of work there are between two checkpoints."""
        self._folder = folder
        self.every_bytes = every_bytes

    def metadata_of(self, release: str) -> bytes | None:
        """Return the metadata of a release whose install was interrupted.

        Raises:
            LocalError: STATE.
        """
        found = self.read()
        if found is None or not release or found.release != release:
            return None
        raw = self._load(METADATA, METADATA_LIMIT)
        return raw if raw is not None and sha256(raw).hexdigest() == found.metadata else None

    def index_of(self, metadata: str, size: int) -> bytes | None:
        """Return the index that was kept with these metadata.

        Raises:
            LocalError: STATE.
        """
        found = self.read()
        return self._load(INDEX, size) if found is not None and found.metadata == metadata else None

    def read(self) -> Checkpoint | None:
        """Return the checkpoint; None when there is none that makes sense.

        Raises:
            LocalError: STATE; the folder can't be read.
        """
        raw = self._load(CHECKPOINT, CHECKPOINT_LIMIT)
        try:
            fields = json.loads(raw) if raw else None
            found = Checkpoint(**fields) if isinstance(fields, dict) else None
        except (ValueError, TypeError, RecursionError):
            return None
        texts = () if found is None else (found.release, found.metadata, found.partuuid)
        counts = () if found is None else (found.operations, found.kept)
        fits = all(isinstance(text, str) for text in texts) and all(isinstance(count, int) for count in counts)
        return found if fits and all(count >= 0 for count in counts) else None

    def begin(self, checkpoint: Checkpoint, metadata: bytes, index: bytes | None) -> None:
        """Forget the last install and remember this one.

        Raises:
            LocalError: STATE.
        """
        self.clear()
        try:
            if not self._folder.exists():
                self._folder.mkdir(mode=0o700)
                sync_directory(self._folder.parent)
            write_atomic(self._folder / METADATA, metadata)
            if index is not None:
                write_atomic(self._folder / INDEX, index)
        except OSError as error:
            raise self._failed(error) from error
        self.write(checkpoint)

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; what it claims must have been flushed before.

        Raises:
            LocalError: STATE.
        """
        try:
            write_atomic(self._folder / CHECKPOINT, json.dumps(asdict(checkpoint)).encode())
        except OSError as error:
            raise self._failed(error) from error

    def clear(self) -> None:
        """Forget the install; the checkpoint goes first, for it vouches for the others.

        Raises:
            LocalError: STATE.
        """
        try:
            for name in (CHECKPOINT, METADATA, INDEX, PAYLOAD):
                if self._folder.exists():
                    remove_durably(self._folder / name)
        except OSError as error:
            raise self._failed(error) from error

    @property
    def payload(self) -> Path:
        """Return where a payload's bytes are kept."""
        return self._folder / PAYLOAD

    def sync(self) -> None:
        """Make the names in the folder durable.

        Raises:
            LocalError: STATE.
        """
        try:
            sync_directory(self._folder)
        except OSError as error:
            raise self._failed(error) from error

    def drop_payload(self) -> None:
        """Remove the bytes that were kept; no checkpoint may claim any.

        Raises:
            LocalError: STATE.
        """
        try:
            remove_durably(self.payload)
        except OSError as error:
            raise self._failed(error) from error

    def _load(self, name: str, limit: int) -> bytes | None:
        try:
            return read_bounded(self._folder / name, limit)
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> LocalError:
        return LocalError(
            ErrorCode.STATE,
            f"{error.filename or self._folder}: {error.strerror}",
            hint="Look at the state directory's file system: `df`, `dmesg`.",
        )
