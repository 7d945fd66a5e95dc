"""The fixed header that every CrAU payload begins with.

    v1: "CrAU" | u64 version | u64 manifest size | manifest | blobs, the payload signature last
    v2: "CrAU" | u64 version | u64 manifest size | u32 metadata signature size | manifest | metadata signature | blobs

All integers are big endian (update_engine, payload_constants and delta_metadata).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from updated.errors import ErrorCode, RefusedError, Retry
from updated.payload.limits import LIMITS

MAGIC = b"CrAU"
V1, V2 = 1, 2
V1_SIZE, V2_SIZE = 20, 24
HEADER_BYTES = V2_SIZE  # what parse_header wants to see


@dataclass(frozen=True, slots=True)
class Header:
    """Sizes in bytes; offsets from the payload's first byte."""

    major: int
    manifest_size: int
    metadata_signature_size: int = 0

    @property
    def header_size(self) -> int:
        """Where the manifest begins."""
        return V1_SIZE if self.major == V1 else V2_SIZE

    @property
    def metadata_size(self) -> int:
        """Header and manifest: what the metadata signature covers."""
        return self.header_size + self.manifest_size

    @property
    def data_start(self) -> int:
        """Where the blobs begin; data offsets count from here."""
        return self.metadata_size + self.metadata_signature_size


def parse_header(first: bytes) -> Header:
    """Read the header from a payload's first 24 bytes.

    Raises:
        RefusedError: METADATA_MAGIC, PAYLOAD_VERSION_UNKNOWN, METADATA_SIZE (absent, or over the limit).
    """
    if len(first) < HEADER_BYTES or first[:4] != MAGIC:
        raise _refused(
            ErrorCode.METADATA_MAGIC, f"this is no CrAU payload: it begins with {bytes(first[:4])!r}", other_source=True
        )
    major, manifest_size = struct.unpack_from(">QQ", first, 4)
    if major not in (V1, V2):
        raise _refused(ErrorCode.PAYLOAD_VERSION_UNKNOWN, f"payloads of version {major} are not understood")
    signature_size = struct.unpack_from(">I", first, V1_SIZE)[0] if major == V2 else 0
    if not 0 < manifest_size <= LIMITS.manifest_bytes:
        raise _refused(
            ErrorCode.METADATA_SIZE, f"the manifest's size is {manifest_size}, not 1 to {LIMITS.manifest_bytes}"
        )
    if signature_size > LIMITS.signature_bytes:
        raise _refused(ErrorCode.METADATA_SIZE, f"the metadata signature's size is {signature_size} bytes")
    return Header(major, manifest_size, signature_size)


def encode_header(header: Header) -> bytes:
    """Write the header's 20 or 24 bytes."""
    encoded = MAGIC + struct.pack(">QQ", header.major, header.manifest_size)
    return encoded + struct.pack(">I", header.metadata_signature_size) if header.major == V2 else encoded


def _refused(code: ErrorCode, message: str, *, other_source: bool = False) -> RefusedError:
    return RefusedError(
        code,
        message,
        hint="Get the payload again from where it was built; `update-payload inspect` shows what it is.",
        retry=Retry.OTHER_SOURCE if other_source else Retry.NO,
    )
