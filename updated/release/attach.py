"""Signatures from elsewhere: what an HSM is to sign, and a payload with the signatures that it made.

The sizes of the signatures stand in the header and the manifest, which are signed themselves. So a payload is built
with a key of the same size as the HSM's (a development key will do), and `attach` puts other signatures in its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from updated.common.durable import read_bounded
from updated.errors import ErrorCode, LocalError
from updated.payload.framing import HEADER_BYTES, V2, Header, parse_header
from updated.payload.limits import LIMITS
from updated.payload.parse import parse_manifest
from updated.release.beside import beside
from updated.release.packages import measure, release_of, write_release
from updated.release.sign import encode_signatures

PIECE = 1024 * 1024
DESCRIPTION_LIMIT = 1024 * 1024  # bytes, as update-server has it


@dataclass(frozen=True, slots=True)
class Parts:
    """Where a payload's signed and signing parts are; offsets and sizes in bytes."""

    header: Header
    signatures_at: int
    signatures_size: int


@dataclass(frozen=True, slots=True)
class Digests:
    """What is signed: SHA-256 over header and manifest (version 2 only), and over those and all data."""

    metadata: bytes | None
    payload: bytes


def digest(payload: Path, out: Path) -> list[Path]:
    """Write metadata.sha256 (version 2) and payload.sha256, 32 raw bytes each; return their paths.

    Raises:
        RefusedError: the payload can't be parsed.
        LocalError: STATE; a file can't be read or written.
    """
    try:
        digests = _digests(payload)
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for name, value in (("metadata.sha256", digests.metadata), ("payload.sha256", digests.payload)):
            if value is not None:
                (out / name).write_bytes(value)
                written.append(out / name)
    except OSError as error:
        raise _unreadable(payload, error) from error
    return written


def attach(payload: Path, signatures: Sequence[Path], out: Path) -> None:
    """Write the payload with these signatures instead of its own, and its release.json if the old one has one.

    Args:
        payload: a built payload whose signatures have the same sizes.
        signatures: raw RSA signatures: for version 2 first one a key over metadata.sha256, then one a key over
            payload.sha256, the keys in the same order; for version 1 only the latter.
        out: the new file.

    Raises:
        RefusedError: the payload can't be parsed.
        LocalError: USAGE for signatures of other sizes, STATE for files that can't be read or written.
    """
    try:
        facts = _description(payload)
        with payload.open("rb") as file:
            parts = _parts(file)
            metadata, whole = _blobs(parts, [path.read_bytes() for path in signatures])
            with beside(out) as part, part.open("wb") as made:
                for piece in _replaced(file, parts, metadata, whole):
                    made.write(piece)
        if facts is not None:  # else publishing whatever describes `out` is refused: its hashes are others
            _describe(out, facts)
    except OSError as error:
        raise _unreadable(payload, error) from error


def _description(payload: Path) -> dict[str, Any] | None:
    """Return what update-server reads of a payload; None for one from elsewhere."""
    told = release_of(payload)
    if not told.exists():
        return None
    try:
        return dict(json.loads(read_bounded(told, DESCRIPTION_LIMIT)))
    except (ValueError, TypeError, RecursionError) as error:
        raise LocalError(ErrorCode.STATE, f"{told} can't be read: {error}", hint="Build the release again.") from error


def _describe(out: Path, facts: dict[str, Any]) -> None:
    """Write the new file's release.json: all as it was, but for name, size and hashes."""
    made = measure(out, "payload").as_dict()
    facts |= {"payload": made["name"], **{key: made[key] for key in ("size", "sha1", "sha256")}}
    write_release(out, facts)


def _blobs(parts: Parts, raw: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Encode the two Signatures messages and check that they fit in the place of the old ones."""
    with_metadata = parts.header.major == V2
    if not raw or (with_metadata and len(raw) % 2):
        raise _misfit("version 2 takes two signatures a key, one of the metadata and one of the payload")
    half = len(raw) // 2 if with_metadata else 0
    metadata = encode_signatures(raw[:half]) if with_metadata else b""
    whole = encode_signatures(raw[half:])
    if (len(metadata), len(whole)) != (parts.header.metadata_signature_size, parts.signatures_size):
        raise _misfit(
            f"the payload has room for {parts.header.metadata_signature_size}+{parts.signatures_size} bytes of"
            f" signatures, these take {len(metadata)}+{len(whole)}"
        )
    return metadata, whole


def _replaced(file: BinaryIO, parts: Parts, metadata: bytes, whole: bytes) -> Iterator[bytes]:
    yield from _read(file, 0, parts.header.metadata_size)
    yield metadata
    yield from _read(file, parts.header.data_start, parts.signatures_at)
    yield whole


def _digests(payload: Path) -> Digests:
    with payload.open("rb") as file:
        parts = _parts(file)
        running = hashlib.sha256()
        for piece in _read(file, 0, parts.header.metadata_size):
            running.update(piece)
        metadata = running.digest() if parts.header.major == V2 else None
        for piece in _read(file, parts.header.data_start, parts.signatures_at):
            running.update(piece)
    return Digests(metadata, running.digest())


def _parts(file: BinaryIO) -> Parts:
    header = parse_header(file.read(HEADER_BYTES).ljust(HEADER_BYTES, b"\0"))
    file.seek(header.header_size)
    manifest = parse_manifest(file.read(min(header.manifest_size, LIMITS.manifest_bytes)), header)
    return Parts(header, header.data_start + manifest.signatures_offset, manifest.signatures_size)


def _read(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end:
        piece = file.read(min(PIECE, end - start))
        if not piece:
            raise LocalError(ErrorCode.STATE, "the payload is cut off", hint="Build it again.")
        start += len(piece)
        yield piece


def _misfit(what: str) -> LocalError:
    return LocalError(
        ErrorCode.USAGE,
        what,
        hint="Build the payload with as many keys of the same sizes as those that signed; a development key will do.",
    )


def _unreadable(payload: Path, error: OSError) -> LocalError:
    return LocalError(
        ErrorCode.STATE, f"{error.filename or payload}: {error.strerror}", hint="Look at the path and free space."
    )
