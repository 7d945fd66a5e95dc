"""Reads the trusted keys: every *.pem of a directory, and of its `revoked` folder."""

from __future__ import annotations

import os
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
    """Read a directory's keys; only one that isn't there at all has none: revoked keys that can't be read stay revoked.

    Path.glob would find nothing in a directory that can't be listed.
    """
    path = directory
    try:
        if not _is_there(directory):
            return {}
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".pem"))
        found = {}
        for name in names:
            path = directory / name
            found[name] = read_bounded(path, KEY_LIMIT)
    except (OSError, ValueError) as error:
        raise RefusedError(
            ErrorCode.KEY_UNREADABLE,
            f"{path} can't be read, and it has keys: {error}",
            hint="Make it readable to root, or remove it if it has no trusted or revoked key.",
        ) from error
    return found


def _is_there(path: Path) -> bool:
    """Tell whether there is anything of this name, be it a link to nowhere."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
