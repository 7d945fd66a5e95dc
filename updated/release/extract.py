"""Reads payloads without installing them: inspect, verify, extract. The same parsing and decoding as the daemon's."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.fetch import FileSource
from updated.install.operations import ZERO_PIECE, carry_out
from updated.install.stream import Metadata, PayloadReader, WholeReader, open_payload
from updated.payload.manifest import FROM_SOURCE, Manifest, Operation, Partition
from updated.payload.signature import parse_signatures
from updated.payload.slot_set import slot_set
from updated.payload.trust import Keyring
from updated.release.beside import beside
from updated.release.packages import measure

PIECE = 1024 * 1024


def _open_payload(payload: Path, keyring: Keyring | None) -> tuple[Metadata, WholeReader]:
    source = FileSource(payload)
    return open_payload(source, keyring, allow_unsigned_metadata=keyring is None, cancelled=threading.Event())


def verify(payload: Path, keyring: Keyring) -> tuple[Manifest, str]:
    """Check all signatures and the hash of every operation's data; return the manifest and the key's name.

    Raises:
        RefusedError: why the payload can't be trusted.
        RemoteError: PAYLOAD_SIZE_MISMATCH.
        LocalError: the file can't be read.
    """
    metadata, reader = _open_payload(payload, keyring)
    manifest = metadata.manifest
    slot_set(manifest)
    for partition in manifest.partitions:
        for operation in partition.operations:
            _check_data(operation, reader.take(operation.data_length))
    return manifest, reader.check_end(keyring)


def check_packages(manifest: Manifest, payload: Path) -> list[str]:
    """Check the release's other files, which lie beside the payload; return the names of those that don't.

    Raises:
        RefusedError: PACKAGE_MISMATCH; one isn't what was signed.
        LocalError: STATE; one can't be read.
    """
    missing = []
    for package in manifest.packages:
        path = payload.with_name(package.name)
        try:
            found = measure(path, package.kind)
        except FileNotFoundError:
            missing.append(package.name)
            continue
        except OSError as error:
            raise LocalError(ErrorCode.STATE, f"{path}: {error.strerror}", hint="Look at its permissions.") from error
        if (found.size, found.sha256) != (package.size, package.sha256):
            raise RefusedError(
                ErrorCode.PACKAGE_MISMATCH, f"{path} is not what was signed", hint="Get it from where it was built."
            )
    return missing


def _check_data(operation: Operation, data: bytes | memoryview) -> None:
    if operation.data_length and sha256(data).digest() != operation.data_sha256:
        raise RefusedError(
            ErrorCode.OPERATION_HASH_MISMATCH,
            f"the data at {operation.data_offset} (+{operation.data_length}) are not what was signed",
            hint="The payload was changed or damaged; get it from where it was built.",
        )


def inspect(payload: Path) -> dict[str, Any]:
    """Return what a payload says of itself, believed or not: the document of `inspect --json`.

    Raises:
        UpdateError: it can't be read or parsed.
    """
    metadata, _ = _open_payload(payload, None)
    header, manifest = metadata.header, metadata.manifest
    whole = sha256()
    with payload.open("rb") as file:
        while piece := file.read(PIECE):
            whole.update(piece)
    identity = manifest.identity
    return {
        "major": manifest.major,
        "minor": manifest.minor,
        "block_size": manifest.block_size,
        "size": payload.stat().st_size,
        "sha256": whole.hexdigest(),
        "metadata_size": header.metadata_size,
        "product": identity.product if identity else None,
        "channels": list(identity.channels) if identity else [],
        "version": identity.version if identity else None,
        "rollback_index": identity.rollback_index if identity else None,
        "not_after": identity.not_after if identity else None,
        "root_hash": manifest.root_hash,
        "signatures": _signatures(payload, header.data_start + manifest.signatures_offset, manifest.signatures_size),
        "partitions": [_describe(partition) for partition in manifest.partitions],
        "packages": [
            {"name": package.name, "size": package.size, "sha256": package.sha256.hex(), "kind": package.kind}
            for package in manifest.packages
        ],
    }


def _signatures(payload: Path, offset: int, size: int) -> list[dict[str, int]]:
    if not size:
        return []
    with payload.open("rb") as file:
        file.seek(offset)
        entries = parse_signatures(file.read(size))
    return [{"bits": len(entry.data) * 8, "version": entry.version} for entry in entries]


def _describe(partition: Partition) -> dict[str, Any]:
    operations: dict[str, dict[str, int]] = {}
    for operation in partition.operations:
        kind = operations.setdefault(operation.type.name, {"count": 0, "bytes": 0})
        kind["count"] += 1
        kind["bytes"] += operation.data_length
    return {
        "name": partition.name,
        "size": partition.new.size if partition.new else None,
        "sha256": partition.new.sha256.hex() if partition.new else None,
        "old_sha256": partition.old.sha256.hex() if partition.old else None,
        "operations": operations,
    }


class ImageFile:
    """An image that operations read and write; in a fresh one zeros are left out, for holes read as such."""

    def __init__(self, fd: int, block_size: int, *, fresh: bool) -> None:
        self._fd, self._block_size, self._fresh = fd, block_size, fresh

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes; what the last block lacks is zeros, as on a slot.

        Raises:
            LocalError: SOURCE_MISMATCH; the image is too small to be the one that a delta is for.
        """
        data = os.pread(self._fd, length, offset)
        if length - len(data) >= self._block_size:
            raise LocalError(
                ErrorCode.SOURCE_MISMATCH, "the old image is smaller than the delta's", hint="Name the right --old."
            )
        return data.ljust(length, b"\0")

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        if self._fresh and data == ZERO_PIECE[: len(data)]:  # at once for the pieces of ZERO operations: they are these
            return
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written


@contextmanager
def _open(path: Path, flags: int, block_size: int) -> Iterator[ImageFile]:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield ImageFile(fd, block_size, fresh=bool(flags & os.O_TRUNC))
    finally:
        os.close(fd)


def extract(payload: Path, name: str, out: Path, *, old: Path | None, keyring: Keyring | None) -> None:
    """Write one partition's image; without a keyring nothing is verified but the hashes.

    The image is written beside `out` and renamed once its hash is right.

    Raises:
        UpdateError: the payload can't be trusted, parsed or carried out.
    """
    try:
        with beside(out) as part:
            _extract(payload, name, part, old, keyring)
    except OSError as error:
        raise LocalError(
            ErrorCode.STATE, f"{error.filename or out}: {error.strerror}", hint="Look at the path and free space."
        ) from error


def _extract(payload: Path, name: str, out: Path, old: Path | None, keyring: Keyring | None) -> None:
    metadata, reader = _open_payload(payload, keyring)
    manifest = metadata.manifest
    partition = _find(manifest, name)
    _check_room(partition, out)
    in_place = manifest.changes_in_place(partition)
    if old is None and (in_place or partition.kinds & FROM_SOURCE):
        raise LocalError(ErrorCode.USAGE, f"{name} comes as a delta", hint="Name the old image with --old.")
    if in_place and old is not None:
        shutil.copyfile(old, out)
    source = old if old is not None and partition.kinds & FROM_SOURCE else None
    flags, size = os.O_RDWR | os.O_CREAT | (0 if in_place else os.O_TRUNC), manifest.block_size
    with _open(out, flags, size) as image:
        if source is not None:
            with _open(source, os.O_RDONLY, size) as running:
                _carry_out_all(manifest, partition, reader, image, running)
        else:
            _carry_out_all(manifest, partition, reader, image, None)
    if keyring is not None:
        reader.check_end(keyring)
    _check_image(partition, out)


def _check_room(partition: Partition, out: Path) -> None:
    """See that there is room for the image, which a payload of a few bytes may claim to be of any size."""
    room = os.statvfs(out.parent)
    free = room.f_bavail * room.f_frsize
    if partition.new is not None and partition.new.size > free:
        raise LocalError(
            ErrorCode.NO_SPACE,
            f"the image has {partition.new.size} bytes, {out.parent} has {free}",
            hint="Free space there, or name another place with --out.",
        )


def _find(manifest: Manifest, name: str) -> Partition:
    for partition in manifest.partitions:
        if partition.name == name and partition.new is not None:
            return partition
    names = ", ".join(partition.name for partition in manifest.partitions)
    raise LocalError(ErrorCode.PARTITION_UNKNOWN, f"the payload has no partition {name}", hint=f"It has: {names}.")


def _carry_out_all(
    manifest: Manifest, wanted: Partition, reader: PayloadReader, image: ImageFile, running: ImageFile | None
) -> None:
    for partition in manifest.partitions:
        for operation in partition.operations:
            data = reader.take(operation.data_length)
            if partition is wanted:
                carry_out(operation, data, target=image, running=running, block_size=manifest.block_size)


def _check_image(partition: Partition, out: Path) -> None:
    if partition.new is None:
        raise AssertionError("only partitions with an image are extracted")
    os.truncate(out, partition.new.size)
    whole = sha256()
    with out.open("rb") as file:
        while piece := file.read(PIECE):
            whole.update(piece)
    if whole.digest() != partition.new.sha256:
        raise RefusedError(
            ErrorCode.PARTITION_HASH_MISMATCH,
            f"the partition {partition.name} comes out differently from what the payload says",
            hint="Is --old the image that the delta was made from?",
        )
