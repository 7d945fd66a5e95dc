"""Reads a payload: its metadata first, believed only when they are signed, then its data, front to back, hashed."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from updated.errors import ErrorCode, RefusedError, RemoteError, Retry, UpdateError
from updated.install.fetch import Source
from updated.install.ranges import Span
from updated.payload.framing import HEADER_BYTES, V2, Header, parse_header
from updated.payload.manifest import Manifest
from updated.payload.parse import parse_manifest
from updated.payload.signature import verify
from updated.payload.trust import Keyring

PIECE = 256 * 1024  # bytes of metadata gathered at once


@dataclass(frozen=True, slots=True)
class Metadata:
    """A payload's header, manifest and metadata signature."""

    raw: bytes  # as they stand in the payload, up to its first data
    header: Header
    manifest: Manifest
    key: str | None  # the name of the key that signed them; None: nothing here is proven yet

    @property
    def data_start(self) -> int:
        """Where the first data are, in bytes from the payload's beginning."""
        return len(self.raw)

    @property
    def payload_size(self) -> int:
        """How many bytes the whole payload has, signature included."""
        data = max(self.manifest.data_length, self.manifest.signatures_offset)
        return self.data_start + data + self.manifest.signatures_size

    def check_size(self, offered: int | None) -> None:
        """See that what is offered is as long as the payload says of itself; parts of it may never be fetched.

        Raises:
            RemoteError: PAYLOAD_SIZE_MISMATCH.
        """
        if offered is not None and offered != self.payload_size:
            raise _size_mismatch(f"{offered} bytes are offered, the payload has {self.payload_size}")

    @property
    def digest(self) -> bytes:
        """The SHA-256 that tells releases apart, and, when they are signed, their whole content."""
        return hashlib.sha256(self.raw).digest()


def fetch_metadata(source: Source, cancelled: threading.Event) -> bytes:
    """Fetch header, manifest and metadata signature, and not a byte more.

    Raises:
        RefusedError: METADATA_MAGIC and others of `parse_header`.
        RemoteError: PAYLOAD_SIZE_MISMATCH; what the source raises.
        UpdateError: CANCELLED.
    """
    start = _fetch(source, 0, HEADER_BYTES, cancelled)
    end = parse_header(start).data_start
    return start[:end] if end <= HEADER_BYTES else _fetch(source, HEADER_BYTES, end, cancelled, start)


def _fetch(source: Source, begin: int, end: int, cancelled: threading.Event, before: bytes = b"") -> bytes:
    """Fetch some bytes and return them behind others; a manifest has megabytes, so they are in memory only once."""
    reader, whole = PayloadReader(source.read([Span(begin, end)]), cancelled), io.BytesIO()
    whole.write(before)
    for at in range(begin, end, PIECE):
        whole.write(reader.take(min(PIECE, end - at)))
    return whole.getvalue()


def fetch_file(source: Source, size: int, cancelled: threading.Event) -> bytes:
    """Fetch a small file of known size, whole.

    Raises:
        RemoteError: PAYLOAD_SIZE_MISMATCH; what the source raises.
        UpdateError: CANCELLED.
    """
    return _fetch(source, 0, size, cancelled)


def check_cancelled(cancelled: threading.Event) -> None:
    """Look whether the install shall end.

    Raises:
        UpdateError: CANCELLED.
    """
    if cancelled.is_set():
        raise UpdateError(ErrorCode.CANCELLED, "the install was cancelled", hint="Start it again when wanted.")


def open_payload(
    source: Source, keyring: Keyring | None, *, allow_unsigned_metadata: bool, cancelled: threading.Event
) -> tuple[Metadata, WholeReader]:
    """Fetch and believe a payload's metadata; return them and the reader of everything behind.

    Raises:
        UpdateError: what `fetch_metadata` and `believe` raise.
    """
    raw = fetch_metadata(source, cancelled)
    metadata = believe(raw, keyring, allow_unsigned_metadata=allow_unsigned_metadata)
    return metadata, WholeReader(source.read([Span(metadata.data_start)]), cancelled, metadata)


def believe(raw: bytes, keyring: Keyring | None, *, allow_unsigned_metadata: bool) -> Metadata:
    """Verify metadata and parse them; a version 2 manifest is parsed only once it is verified.

    Without a keyring nothing is verified: for tools that only look, never for an install.

    Raises:
        RefusedError: any of framing, signature and parse; METADATA_SIGNATURE_MISSING, METADATA_SIGNATURE_MISMATCH,
            SIGNATURE_MISSING when the payload has no signature at its end.
    """
    header, view = parse_header(raw[:HEADER_BYTES]), memoryview(raw)  # not copied: the manifest is read from it again
    key = None
    blob = raw[header.metadata_size :]
    if header.major == V2 and keyring is not None and (blob or not allow_unsigned_metadata):
        key = verify(
            hashlib.sha256(view[: header.metadata_size]).digest(),
            blob,
            keyring,
            missing=ErrorCode.METADATA_SIGNATURE_MISSING,
            mismatch=ErrorCode.METADATA_SIGNATURE_MISMATCH,
        )
    parsed = parse_manifest(view[header.header_size : header.metadata_size], header)
    if keyring is not None and not parsed.signatures_size:
        raise RefusedError(
            ErrorCode.SIGNATURE_MISSING,
            "the payload is not signed",
            hint="Sign it (`update-payload build --key`, or digest and attach).",
        )
    return Metadata(raw, header, parsed, key)


class PayloadReader:
    """Exact reads from a stream of pieces; what lies inside one piece is handed out without a copy."""

    def __init__(self, pieces: Iterator[memoryview], cancelled: threading.Event) -> None:
        self._pieces, self._cancelled = pieces, cancelled
        self._rest = memoryview(b"")
        self.taken = 0  # bytes

    @property
    def left(self) -> int:
        """Return how many bytes have been taken from the stream and not read yet."""
        return len(self._rest)

    def look(self) -> None:
        """Look whether the install shall end, where work is done for which nothing is read.

        Raises:
            UpdateError: CANCELLED.
        """
        check_cancelled(self._cancelled)

    def take(self, length: int) -> memoryview:
        """Return the next `length` bytes.

        Raises:
            RemoteError: PAYLOAD_SIZE_MISMATCH when the payload ends before; what the source raises.
            UpdateError: CANCELLED.
        """
        self.taken += length
        if length <= len(self._rest):
            taken, self._rest = self._rest[:length], self._rest[length:]
            return taken
        return self._gather(length)

    def take_bytes(self, length: int) -> bytes:
        """Return the next `length` bytes as an object of their own."""
        return bytes(self.take(length))

    def _gather(self, length: int) -> memoryview:
        """Return what is left and as much of the next pieces as makes up `length` bytes."""
        parts, lacking = [self._rest], length - len(self._rest)
        while lacking:
            check_cancelled(self._cancelled)
            piece = next(self._pieces, None)
            if not piece:
                raise _size_mismatch(f"the payload ends after {self.taken - lacking} bytes, {lacking} are missing")
            self.note(piece)
            part, self._rest = piece[:lacking], piece[lacking:]
            parts.append(part)
            lacking -= len(part)
        return memoryview(b"".join(parts))

    def note(self, arrived: memoryview) -> None:
        """Take in what has just arrived; a reader that hashes does so here."""

    def finish(self) -> None:
        """Check that the payload ends here.

        Raises:
            RemoteError: PAYLOAD_SIZE_MISMATCH.
        """
        if self._rest or any(self._pieces):
            raise _size_mismatch("the payload goes on after its end")


class WholeReader(PayloadReader):
    """Reads everything behind the metadata, and hashes it, once.

    What the offer's hash covers begins as what the payload signature covers does, but for a metadata signature in
    between. A payload that has one is proven by it: its operations' hashes cover every byte of data. So where the offer
    says what the whole hashes to, that is compared, and the payload signature is left to those that have no offer.
    """

    def __init__(
        self,
        pieces: Iterator[memoryview],
        cancelled: threading.Event,
        metadata: Metadata,
        expected_sha256: bytes | None = None,
    ) -> None:
        """Take what follows the metadata; `expected_sha256` of the whole payload is what an offer says, if it does."""
        super().__init__(pieces, cancelled)
        self._metadata, self._expected = metadata, expected_sha256
        signed = memoryview(metadata.raw)[: metadata.header.metadata_size]
        self._hash = hashlib.sha256(signed if expected_sha256 is None else metadata.raw)
        self._sees_signed = expected_sha256 is None or len(signed) == len(metadata.raw)
        self._unsigned_yet = metadata.manifest.signatures_offset  # bytes until the signature, which doesn't sign itself
        self._signed = b"" if self._unsigned_yet else self._hash.digest()  # once all that is signed has come

    def note(self, arrived: memoryview) -> None:
        """Hash what has arrived."""
        if self._unsigned_yet:
            data, arrived = arrived[: self._unsigned_yet], arrived[self._unsigned_yet :]
            self._hash.update(data)
            self._unsigned_yet -= len(data)
            if not self._unsigned_yet:
                self._signed = self._hash.digest()
        if self._expected is not None:
            self._hash.update(arrived)

    def check_end(self, keyring: Keyring) -> str:
        """Read the payload signature and check size, whole hash, signature; return the name of the key that proves it.

        Raises:
            RefusedError: PAYLOAD_HASH_MISMATCH, SIGNATURE_MISSING, SIGNATURE_MISMATCH.
            RemoteError: PAYLOAD_SIZE_MISMATCH.
        """
        blob = self.take_bytes(self._metadata.manifest.signatures_size)
        self.finish()
        if self._expected is not None and self._hash.digest() != self._expected:
            raise RefusedError(
                ErrorCode.PAYLOAD_HASH_MISMATCH,
                "the payload's SHA-256 is not the one that the update server named",
                hint="The mirror or the update server has another file; look at both.",
                retry=Retry.OTHER_SOURCE,
            )
        if not self._sees_signed and self._metadata.key is not None:
            return self._metadata.key
        missing, mismatch = ErrorCode.SIGNATURE_MISSING, ErrorCode.SIGNATURE_MISMATCH
        return verify(self._signed, blob, keyring, missing=missing, mismatch=mismatch)


def _size_mismatch(message: str) -> RemoteError:
    return RemoteError(
        ErrorCode.PAYLOAD_SIZE_MISMATCH,
        message,
        hint="The mirror has a damaged or another file; get the payload from where it was built.",
        retry=Retry.OTHER_SOURCE,
    )
