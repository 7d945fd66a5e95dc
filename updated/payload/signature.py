"""Payload and metadata signatures: RSA PKCS#1 v1.5 over SHA-256, several in one message.

A signature is good when any trusted key verifies any entry, whatever version number it carries (AOSP's rule;
update_engine looks at version 2 only, so what release/ writes numbers the last one 2). No entry at all is missing,
not good.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from google.protobuf.message import DecodeError

from updated.errors import ErrorCode, RefusedError, Retry
from updated.payload import update_metadata_pb2 as pb
from updated.payload.limits import LIMITS
from updated.payload.trust import Keyring, TrustedKey


@dataclass(frozen=True, slots=True)
class SignatureEntry:
    """One raw signature."""

    version: int
    data: bytes


def parse_signatures(blob: bytes) -> tuple[SignatureEntry, ...]:
    """Read a Signatures message.

    Raises:
        RefusedError: LIMIT_EXCEEDED or MANIFEST_PARSE.
    """
    if len(blob) > LIMITS.signature_bytes:
        raise RefusedError(
            ErrorCode.LIMIT_EXCEEDED, f"the signatures have {len(blob)} bytes", hint="Ask whoever built the payload."
        )
    try:
        message = pb.Signatures.FromString(blob)
    except DecodeError as error:
        raise RefusedError(
            ErrorCode.MANIFEST_PARSE,
            f"the signatures can't be read: {error}",
            hint="The payload is damaged; get it again from where it was built.",
            retry=Retry.OTHER_SOURCE,
        ) from error
    if len(message.signatures) > LIMITS.signatures:
        raise RefusedError(
            ErrorCode.LIMIT_EXCEEDED,
            f"there are {len(message.signatures)} signatures",
            hint=f"Sign with at most {LIMITS.signatures} keys.",
        )
    return tuple(SignatureEntry(entry.version, _unpad(entry)) for entry in message.signatures)


def _unpad(entry: pb.Signature) -> bytes:
    size = entry.unpadded_signature_size
    return entry.data[:size] if 0 < size < len(entry.data) else entry.data


def verify(digest: bytes, blob: bytes, keyring: Keyring, *, missing: ErrorCode, mismatch: ErrorCode) -> str:
    """Check a SHA-256 digest against a Signatures message and return the name of the key that fits.

    Raises:
        RefusedError: `missing` when the blob has no signature, `mismatch` when no trusted key made one of them.
    """
    entries = parse_signatures(blob)
    if not any(entry.data for entry in entries):
        raise RefusedError(
            missing, "the payload is not signed", hint="Sign it (`update-payload build --key`, or digest and attach)."
        )
    for entry in entries:
        for key in keyring.keys:
            if _fits(digest, entry.data, key):
                return key.name
    raise RefusedError(
        mismatch,
        f"no trusted key made this signature (trusted: {', '.join(key.name for key in keyring.keys)})",
        hint="The payload was changed, or signed with a key that this host doesn't trust. Do not install it.",
        retry=Retry.OTHER_SOURCE,
    )


def _fits(digest: bytes, signature: bytes, key: TrustedKey) -> bool:
    if len(signature) * 8 != key.bits:
        return False
    try:
        key.public_key.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))
    except InvalidSignature:
        return False
    return True
