"""Whom we believe, and which releases we take.

RSA keys of 2048 bits or more with the exponent 65537; several may be trusted at once (rotation) and some revoked. A
keyring that can't be loaded whole is no keyring: nothing here fails open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from updated.errors import ErrorCode, RefusedError
from updated.payload.manifest import Identity

MIN_BITS = 2048
EXPONENT = 65537
BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----[^-]*-----END \1-----")


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key; the fingerprint is the SHA-256 of its SubjectPublicKeyInfo, in hex."""

    name: str
    bits: int
    public_key: RSAPublicKey = field(compare=False)
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of which any one may have signed a payload."""

    keys: tuple[TrustedKey, ...]


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Which releases this host takes."""

    product: str
    channels: tuple[str, ...]
    rollback_floor: int  # the lowest index that may be installed
    allow_legacy_payloads: bool = False  # payloads without a signed identity
    allow_unsigned_metadata: bool = False  # version 2 payloads without a metadata signature
    failed_versions: frozenset[str] = frozenset()
    allow_version_1: bool = True  # payloads that are proven only by their last byte


def load_keyring(pems: Mapping[str, bytes], revoked: Mapping[str, bytes] | None = None) -> Keyring:
    """Load trusted keys from PEM texts by name, leaving out the revoked ones.

    Raises:
        RefusedError: KEY_MISSING, KEY_UNREADABLE, KEY_WEAK, or KEY_REVOKED when every key is revoked.
    """
    if not pems:
        raise RefusedError(
            ErrorCode.KEY_MISSING,
            "no trusted key is installed",
            hint="Put the release engineers' public key (PEM) into the directory trust.keys_dir.",
        )
    keys = [load_key(called, one) for name, pem in sorted(pems.items()) for called, one in split_bundle(name, pem)]
    bundles = [split_bundle(name, pem) for name, pem in (revoked or {}).items()]
    gone = {_load_rsa(called, one)[1] for bundle in bundles for called, one in bundle}
    left = tuple(key for key in keys if key.fingerprint not in gone)
    if not left:
        raise RefusedError(
            ErrorCode.KEY_REVOKED,
            "every installed key is revoked",
            hint="Install the new public key of the release engineers.",
        )
    return Keyring(left)


def split_bundle(name: str, pem: bytes) -> list[tuple[str, bytes]]:
    """Return each block of a PEM file (RFC 7468) with a name, `a.pem` for the only one, `a.pem#2` for a second.

    What is between blocks is a comment, unless a block seems to begin or to end there.

    Raises:
        RefusedError: KEY_UNREADABLE; there is none, or a block that isn't whole.
    """
    blocks = [found[0] for found in BLOCK.finditer(pem)]
    if not blocks or b"-----" in BLOCK.sub(b"", pem):
        raise RefusedError(
            ErrorCode.KEY_UNREADABLE,
            f"the key {name} can't be read: it is no PEM, or a block in it has no beginning or no end",
            hint="Replace or remove the file.",
        )
    return [(f"{name}#{number}" if number > 1 else name, block) for number, block in enumerate(blocks, 1)]


def load_key(name: str, pem: bytes) -> TrustedKey:
    """Load one trusted key.

    Raises:
        RefusedError: KEY_UNREADABLE or KEY_WEAK.
    """
    key, fingerprint = _load_rsa(name, pem)
    if key.key_size < MIN_BITS or key.public_numbers().e != EXPONENT:
        raise RefusedError(
            ErrorCode.KEY_WEAK,
            f"the key {name} is weak: {key.key_size} bits, exponent {key.public_numbers().e}",
            hint=f"Use RSA keys of {MIN_BITS} bits or more with the exponent {EXPONENT}; remove this one.",
        )
    return TrustedKey(name, key.key_size, key, fingerprint)


def _load_rsa(name: str, pem: bytes) -> tuple[RSAPublicKey, str]:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError(
            ErrorCode.KEY_UNREADABLE, f"the key {name} can't be read: {error}", hint="Replace or remove the file."
        ) from error
    if not isinstance(key, RSAPublicKey):
        raise RefusedError(ErrorCode.KEY_WEAK, f"the key {name} is no RSA key", hint="Replace or remove the file.")
    return key, sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def check_identity(identity: Identity | None, policy: TrustPolicy, now: datetime) -> None:
    """Check that a release is for this host, not older than what ran well, not expired, not known to be bad.

    Raises:
        RefusedError: IDENTITY_MISSING, PRODUCT_MISMATCH, CHANNEL_MISMATCH, ROLLBACK_INDEX_TOO_LOW, RELEASE_EXPIRED,
            VERSION_FAILED_BEFORE.
    """
    if identity is None:
        if policy.allow_legacy_payloads:
            return
        raise RefusedError(
            ErrorCode.IDENTITY_MISSING,
            "the payload doesn't say which release it is",
            hint="Build it with update-payload, or set trust.allow_legacy_payloads, which gives up the protection"
            " against old releases and other products' releases.",
        )
    problem = _identity_problem(identity, policy, now)
    if problem is not None:
        code, message, hint = problem
        raise RefusedError(code, message, hint=hint)


def _identity_problem(identity: Identity, policy: TrustPolicy, now: datetime) -> tuple[ErrorCode, str, str] | None:
    if identity.product != policy.product:
        return (
            ErrorCode.PRODUCT_MISMATCH,
            f"the payload is for the product {identity.product}, this host is {policy.product}",
            "The update server offers the wrong payload; look at its catalogue and at server.product.",
        )
    if not set(identity.channels) & set(policy.channels):
        return (
            ErrorCode.CHANNEL_MISMATCH,
            f"the payload is for {', '.join(identity.channels)}, this host follows {', '.join(policy.channels)}",
            "The update server offers the wrong payload; look at its catalogue and at server.channel.",
        )
    if identity.rollback_index < policy.rollback_floor:
        return (
            ErrorCode.ROLLBACK_INDEX_TOO_LOW,
            (
                f"version {identity.version} has the rollback index {identity.rollback_index}, this host needs"
                f" {policy.rollback_floor} or more"
            ),
            "It is older than what ran well here. Build a release with a higher index.",
        )
    if identity.not_after is not None and now.timestamp() > identity.not_after:
        return (
            ErrorCode.RELEASE_EXPIRED,
            f"version {identity.version} was to be installed before {identity.not_after} (seconds since 1970)",
            "Publish a current release; check this host's clock.",
        )
    if identity.version in policy.failed_versions:
        return (
            ErrorCode.VERSION_FAILED_BEFORE,
            f"version {identity.version} was tried on this host and did not boot well, or was rolled back from",
            "Publish a better release; `update-ctl reset` lets this one be tried again.",
        )
    return None
