"""Reads a payload front to back, hashing on the way, and believes its metadata only when they are signed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

from updated.errors import ErrorCode, RefusedError, RemoteError, Retry, UpdateError
from updated.payload.framing import HEADER_BYTES, V1_SIZE, V2, V2_SIZE, Header, parse_header
from updated.payload.manifest import Manifest
from updated.payload.parse import parse_manifest
from updated.payload.signature import verify
from updated.payload.trust import Keyring


class PayloadReader:
    """Exact reads from a stream of pieces; `signed` and `whole` are running SHA-256 hashes."""

    def __init__(self, pieces: Iterator[bytes], cancelled: threading.Event) -> None:
        self._pieces, self._cancelled = pieces, cancelled
        self._rest = memoryview(b"")
        self.position = 0
        self.whole = hashlib.sha256()
        self.signed = hashlib.sha256()

    def take(self, length: int, *, signed: bool = True) -> bytes | memoryview:
        """Return the next `length` bytes; with `signed`, they belong to what the payload signature covers.

        Raises:
            RemoteError: PAYLOAD_SIZE_MISMATCH when the payload ends before; what the source raises.
            UpdateError: CANCELLED.
        """
        if length <= len(self._rest):
            taken: bytes | memoryview = self._rest[:length]
            self._rest = self._rest[length:]
        else:
            taken = self._gather(length)
        self.position += length
        self.whole.update(taken)
        if signed:
            self.signed.update(taken)
        return taken

    def _gather(self, length: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < length:
            if self._cancelled.is_set():
                raise UpdateError(ErrorCode.CANCELLED, "the install was cancelled", hint="Start it again when wanted.")
            fetched = next(self._pieces, None)
            if not fetched:
                raise _size_mismatch(
                    f"the payload ends after {self.position + have} bytes, {length - have} are missing"
                )
            parts.append(memoryview(fetched))
            have += len(fetched)
        surplus = have - length
        self._rest = parts[-1][len(parts[-1]) - surplus :]
        parts[-1] = parts[-1][: len(parts[-1]) - surplus]
        return b"".join(parts)

    def finish(self) -> None:
        """Check that the payload ends here.

        Raises:
            RemoteError: PAYLOAD_SIZE_MISMATCH.
        """
        if self._rest or any(self._pieces):
            raise _size_mismatch(f"the payload goes on after its end at {self.position} bytes")


def read_metadata(
    reader: PayloadReader, keyring: Keyring | None, *, allow_unsigned_metadata: bool
) -> tuple[Header, Manifest]:
    """Read header, manifest and metadata signature; a version 2 manifest is parsed only once it is verified.

    Without a keyring nothing is verified: for tools that only look, never for an install.

    Raises:
        RefusedError: any of framing, signature and parse; METADATA_SIGNATURE_MISSING, METADATA_SIGNATURE_MISMATCH,
            SIGNATURE_MISSING when the payload has no signature at its end.
        RemoteError: PAYLOAD_SIZE_MISMATCH.
    """
    start = bytes(reader.take(V1_SIZE))
    if int.from_bytes(start[4:12], "big") == V2:
        start += bytes(reader.take(V2_SIZE - V1_SIZE))
    header = parse_header(start.ljust(HEADER_BYTES, b"\0"))
    manifest = bytes(reader.take(header.manifest_size))
    if header.major == V2:
        digest = reader.signed.digest()
        blob = bytes(reader.take(header.metadata_signature_size, signed=False))
        if keyring is not None and (blob or not allow_unsigned_metadata):
            verify(
                digest,
                blob,
                keyring,
                missing=ErrorCode.METADATA_SIGNATURE_MISSING,
                mismatch=ErrorCode.METADATA_SIGNATURE_MISMATCH,
            )
    parsed = parse_manifest(manifest, header)
    if keyring is not None and not parsed.signatures_size:
        raise RefusedError(
            ErrorCode.SIGNATURE_MISSING,
            "the payload is not signed",
            hint="Sign it (`update-payload build --key`, or digest and attach).",
        )
    return header, parsed


def check_end(reader: PayloadReader, manifest: Manifest, keyring: Keyring, expected_sha256: bytes | None) -> str:
    """Read the payload signature and check size, whole hash and signature; return the name of the key that fits.

    Raises:
        RefusedError: PAYLOAD_HASH_MISMATCH, SIGNATURE_MISSING, SIGNATURE_MISMATCH.
        RemoteError: PAYLOAD_SIZE_MISMATCH.
    """
    digest = reader.signed.digest()
    blob = bytes(reader.take(manifest.signatures_size, signed=False))
    reader.finish()
    if expected_sha256 is not None and reader.whole.digest() != expected_sha256:
        raise RefusedError(
            ErrorCode.PAYLOAD_HASH_MISMATCH,
            "the payload's SHA-256 is not the one that the update server named",
            hint="The mirror or the update server has another file; look at both.",
            retry=Retry.OTHER_SOURCE,
        )
    return verify(digest, blob, keyring, missing=ErrorCode.SIGNATURE_MISSING, mismatch=ErrorCode.SIGNATURE_MISMATCH)


def _size_mismatch(message: str) -> RemoteError:
    return RemoteError(
        ErrorCode.PAYLOAD_SIZE_MISMATCH,
        message,
        hint="The mirror has a damaged or another file; get the payload from where it was built.",
        retry=Retry.OTHER_SOURCE,
    )
