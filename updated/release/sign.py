"""Makes keys and signatures: RSA PKCS#1 v1.5 over SHA-256, several keys in one Signatures message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from updated.errors import ErrorCode, LocalError, RefusedError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.limits import LIMITS
from updated.payload.trust import EXPONENT, MIN_BITS

LAST_VERSION = 2  # update_engine looks at the first signature of version 2, and its generator numbers the last one so


def keygen(out: Path, bits: int = 2048) -> None:
    """Write private.pem (mode 0600) and public.pem into a directory that has neither.

    Raises:
        LocalError: a file is there already, or the directory can't be written; neither of them is left then.
    """
    key = generate_private_key(EXPONENT, bits)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _create(out / "public.pem", public, 0o644)
        try:
            _create(out / "private.pem", private, 0o600)
        except OSError:
            (out / "public.pem").unlink()  # half a pair is of no use, and bars the way to a whole one
            raise
    except FileExistsError as error:
        raise LocalError(
            ErrorCode.USAGE,
            f"{error.filename} is there already",
            hint="Name another directory; keys are never replaced.",
        ) from error
    except OSError as error:
        raise LocalError(ErrorCode.STATE, f"{out} can't be written: {error.strerror}", hint="Look at it.") from error


def _create(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink()
        raise


def load_private_key(path: Path) -> RSAPrivateKey:
    """Load a private key.

    Raises:
        RefusedError: KEY_UNREADABLE or KEY_WEAK.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError(
            ErrorCode.KEY_UNREADABLE,
            f"the private key {path} can't be read: {error}",
            hint="Name an unencrypted PEM file; `update-payload keygen` makes one.",
        ) from error
    if not isinstance(key, RSAPrivateKey) or not _is_strong(key):
        raise RefusedError(
            ErrorCode.KEY_WEAK,
            f"the private key {path} is no RSA key of {MIN_BITS} bits or more, in whole bytes, with the exponent"
            f" {EXPONENT}",
            hint="Hosts would not believe it. Make another; `update-payload keygen` does.",
        )
    return key


def _is_strong(key: RSAPrivateKey) -> bool:
    numbers = key.public_key().public_numbers()
    return key.key_size >= MIN_BITS and key.key_size % 8 == 0 and numbers.e == EXPONENT


def load_private_keys(paths: Path | Sequence[Path]) -> list[RSAPrivateKey]:
    """Load the keys that are to sign, each of which must be another one.

    Raises:
        RefusedError: KEY_UNREADABLE or KEY_WEAK.
        LocalError: USAGE; none, too many, or one twice.
    """
    keys = [load_private_key(path) for path in ([paths] if isinstance(paths, Path) else paths)]
    moduli = {key.private_numbers().public_numbers.n for key in keys}
    if not 0 < len(keys) == len(moduli) <= LIMITS.signatures:
        raise LocalError(
            ErrorCode.USAGE,
            f"a payload is signed with 1 to {LIMITS.signatures} keys, each of them once",
            hint="Look at the files that --key names.",
        )
    return keys


def sign(digest: bytes, keys: Sequence[RSAPrivateKey]) -> bytes:
    """Return the Signatures message over a SHA-256 digest, one entry a key, the last one numbered 2."""
    return encode_signatures([key.sign(digest, PKCS1v15(), Prehashed(SHA256())) for key in keys])


def signature_size(keys: Sequence[RSAPrivateKey]) -> int:
    """Return how many bytes `sign` will return: it stands in the manifest before anything can be signed."""
    return len(encode_signatures([bytes(key.key_size // 8) for key in keys]))


def encode_signatures(signatures: Sequence[bytes]) -> bytes:
    """Write raw signatures as a Signatures message, the last one numbered 2."""
    first = LAST_VERSION - len(signatures) + 1
    entries = [pb.Signature(version=max(1, first + index), data=data) for index, data in enumerate(signatures)]
    return pb.Signatures(signatures=entries).SerializeToString(deterministic=True)
