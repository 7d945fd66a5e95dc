"""Layered TOML as systemd layers its own files: vendor, runtime, administrator, and drop-ins between them.

`NAME.toml` is taken from the first of /etc, /run, /usr/lib that has it; `NAME.toml.d`-style drop-ins `NN-x.toml` in
`conf.d` of all three are read in the order of their names, where a file in /etc hides one of the same name in /run,
and that one in /usr/lib (the rule of systemd's unit and configuration files). An empty drop-in or one that is a link
to /dev/null masks the others of its name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from updated.common.durable import read_bounded
from updated.common.ownership import read_owned, writable_by_others

ROOTS = (Path("/etc"), Path("/run"), Path("/usr/lib"))  # highest precedence first
FILE_LIMIT = 256 * 1024  # bytes


class SettingsError(Exception):
    """A configuration file can't be read or isn't TOML; the message names the file."""


class SettingsDeniedError(SettingsError):
    """This user may not read a configuration file, or look whether it is there."""


@dataclass(slots=True)
class Layers:
    """Merged settings as dotted keys, and where each came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    def put(self, values: Mapping[str, Any], origin: str) -> None:
        """Lay settings over what is there; tables merge, everything else (lists too) is replaced."""
        for key, value in _flatten(values):
            self.values[key] = value
            self.origin[key] = origin


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_layers(name: str, explicit: Path | None, roots: Sequence[Path] = ROOTS) -> Layers:
    """Read `NAME/NAME.toml` and its drop-ins below `roots`, or `explicit` and the `conf.d` beside it.

    Raises:
        SettingsError: a file is unreadable or malformed, or `explicit` isn't there.
    """
    layers = Layers()
    for path in layer_files(name, explicit, roots):
        layers.put(read_toml(path), str(path))
    return layers


def layer_files(name: str, explicit: Path | None, roots: Sequence[Path] = ROOTS) -> list[Path]:
    """Return the files that `load_layers` reads, in order: the main one, if there is one, and the drop-ins.

    Raises:
        SettingsError: a folder can't be listed, or it can't be found out whether a file is there.
    """
    folders = [explicit.parent] if explicit else [root / name for root in roots]
    mains = [explicit] if explicit else [folder / f"{name}.toml" for folder in folders]
    main = [path for path in mains if explicit or _is_there(path)][:1]
    return main + _drop_ins([folder / "conf.d" for folder in folders])


def _is_there(path: Path) -> bool:
    """Tell whether there is such a name; a link that leads nowhere counts, so that reading it says what is wrong.

    Raises:
        SettingsError: that can't be found out; for a user who may not look it isn't the same as no file.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return path.parent.is_symlink() and not path.parent.exists()
    except OSError as error:
        raise _unreadable(path, "looked at", error) from error
    return True


def _unreadable(path: Path, how: str, error: OSError) -> SettingsError:
    kind = SettingsDeniedError if isinstance(error, PermissionError) else SettingsError
    return kind(f"{path} can't be {how}: {error.strerror}")


def layer_paths(name: str, explicit: Path | None, roots: Sequence[Path] = ROOTS) -> list[Path]:
    """Return every file, and every folder of drop-ins, that `load_layers` would look at now, there or not."""
    folders = [explicit.parent] if explicit else [root / name for root in roots]
    mains = [explicit] if explicit else [folder / f"{name}.toml" for folder in folders]
    drop_ins = [folder / "conf.d" for folder in folders]
    return [*mains, *drop_ins, *(path for folder in drop_ins for path in sorted(folder.glob("*.toml")))]


def _drop_ins(folders: Sequence[Path]) -> list[Path]:
    chosen: dict[str, Path] = {}
    for folder in reversed(folders):  # lowest precedence first, so that a higher one hides it
        if _is_there(folder):
            chosen.update({path.name: path for path in _toml_files(folder)})
    return [chosen[name] for name in sorted(chosen)]


def _toml_files(folder: Path) -> list[Path]:
    try:
        problem = writable_by_others(folder.stat())
        if problem:
            raise OSError(0, problem)
        return [path for path in folder.iterdir() if path.name.endswith(".toml")]
    except OSError as error:
        raise _unreadable(folder, "listed", error) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Parse one file; /dev/null and an empty file are an empty table.

    Raises:
        SettingsError: unreadable, over 256 KiB, not TOML, or others than root and the user that this runs as may write
            it.
    """
    try:
        data = read_owned(path, FILE_LIMIT)
    except OSError as error:
        raise _unreadable(path, "read", error) from error
    except ValueError as error:
        raise SettingsError(f"{path} is over {FILE_LIMIT} bytes") from error
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # a number of over 4300 digits is a plain ValueError
        raise SettingsError(f"{path} is not TOML: {error}") from error


def read_key_values(path: Path, *, required: bool = False, owned: bool = False) -> dict[str, str]:
    """Parse KEY=VALUE lines as update.conf and os-release have them: `#` comments, one pair of quotes removed.

    A byte order mark is no part of the first key. A file that isn't there is empty, unless it is `required`. What is
    `owned` are settings: only root, or the user that this runs as, may be able to write them.

    Raises:
        SettingsError: the file can't be read, is over 256 KiB, or may be written by others.
    """
    try:
        read = read_owned if owned else read_bounded
        text = read(path, FILE_LIMIT).decode("utf-8-sig", errors="replace")
    except ValueError as error:
        raise SettingsError(f"{path} is over {FILE_LIMIT} bytes") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not required:
            return {}
        raise SettingsError(f"{path} can't be read: {error.strerror}") from error
    found = {}
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#") or "=" not in line:
            continue
        key, _, value = line.partition("=")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[key.strip()] = value
    return found
