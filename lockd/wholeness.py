"""Whether a policy says all that its author wrote: what was cut off, or put where nothing reads it, isn't permission.

A file whose last line has no end was cut in the middle of it, or isn't written yet. A policy of the administrator's
says which strategy it is for, so that an empty one, or one that was cut at its beginning, says nothing. A key that
nothing knows may be a restriction that isn't heeded: misspelt, or below the wrong table, where TOML puts all that
comes after its heading.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from updated.common.durable import read_bounded
from updated.common.settings import FILE_LIMIT, ROOTS, Layers, SettingsError, layer_files, read_toml

NO_STRATEGY = "doesn't say which strategy"  # no doubt about its windows
VENDOR = ROOTS[-1]  # what is below has no policy of this host's


def doubt_of(explicit: Path | None, layers: Layers, unknown: Sequence[str]) -> str:
    """Return why the policy isn't to be gone by; empty when nothing speaks against it.

    Raises:
        SettingsError: a file can't be read any more.
    """
    if unknown:
        return f"nothing knows the setting {unknown[0]} in {layers.origin[unknown[0]]}"
    if explicit is not None and explicit.suffix == ".conf":
        return ""
    files = [path for path in layer_files("lockd", explicit) if path.is_file() and VENDOR not in path.parents]
    return next(filter(None, map(_doubt, files)), "")


def _doubt(path: Path) -> str:
    try:
        data = read_bounded(path, FILE_LIMIT)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} can't be read: {error}") from error
    is_drop_in = path.parent.name == "conf.d"
    if not data.strip():
        return "" if is_drop_in else f"{path} is empty"
    if not data.endswith(b"\n"):
        return f"{path} ends in the middle of a line: it was cut, or isn't written to its end"
    if not is_drop_in and "strategy" not in read_toml(path):
        return f"{path} {NO_STRATEGY}: its beginning is missing, or the setting stands below a table"
    return ""
