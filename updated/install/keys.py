"""Reads the trusted keys: every *.pem of a directory, and of its `revoked` folder."""

from __future__ import annotations

from pathlib import Path

from updated.common.durable import read_bounded
from updated.errors import ErrorCode, RefusedError
from updated.payload.trust import Keyring, load_keyring

KEY_LIMIT = 64 * 1024  # bytes


def read_keyring(directory: Path) -> Keyring:
    """Load the keys that payloads must be signed with.

    Raises:
        RefusedError: KEY_MISSING, KEY_UNREADABLE, KEY_WEAK or KEY_REVOKED; nothing is installed then.
    """
    return load_keyring(_read_pems(directory), _read_pems(directory / "revoked"))


def _read_pems(directory: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(directory.glob("*.pem")):
        try:
            found[path.name] = read_bounded(path, KEY_LIMIT)
        except (OSError, ValueError) as error:
            raise RefusedError(
                ErrorCode.KEY_UNREADABLE,
                f"the key {path} can't be read: {error}",
                hint="Make it readable to root, or remove it if it isn't a trusted key.",
            ) from error
    return found
