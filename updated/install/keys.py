"""Reads the trusted keys: every file of a directory, and of its `revoked` folder, each with one key or several.

What is in there and isn't understood is an error, for it may be the key that was to be revoked.
"""

from __future__ import annotations

import os
from pathlib import Path

from updated.common.ownership import read_owned, writable_by_others
from updated.errors import ErrorCode, RefusedError
from updated.payload.trust import Keyring, load_keyring

KEY_LIMIT = 64 * 1024  # bytes
REVOKED = "revoked"
SUFFIX = ".pem"


def read_keyring(directory: Path) -> Keyring:
    """Load the keys that payloads must be signed with.

    Raises:
        RefusedError: KEY_MISSING, KEY_UNREADABLE, KEY_WEAK or KEY_REVOKED; nothing is installed then.
    """
    return load_keyring(_read_pems(directory, folder=REVOKED), _read_pems(directory / REVOKED))


def _read_pems(directory: Path, folder: str = "") -> dict[str, bytes]:
    """Read a directory's keys; only one that isn't there at all has none: revoked keys that can't be read stay revoked.

    Path.glob would find nothing in a directory that can't be listed. Beside the keys only `folder` may be there.
    """
    path = directory
    try:
        if not _is_there(directory):
            return {}
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.name != folder)
        problem = writable_by_others(directory.stat())
        if problem:
            raise OSError(0, problem)
        found = {}
        for name in names:
            path = directory / name
            if not name.endswith(SUFFIX):
                raise OSError(0, f"its name doesn't end in {SUFFIX}")
            found[name] = read_owned(path, KEY_LIMIT)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RefusedError(
            ErrorCode.KEY_UNREADABLE,
            f"{path} can't be taken for keys: {why}",
            hint="Only keys of root's belong there, PEM in files NAME.pem; rename it, mend it, or take it out.",
        ) from error
    return found


def _is_there(path: Path) -> bool:
    """Tell whether there is anything of this name, be it a link to nowhere."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
