"""The default configuration files name every key, each at the default that the code has."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lockd import config as lockd_config
from lockd import fleetlock_config
from updated import config as updated_config
from updated.common.schema import fill, flatten
from updated.common.settings import Layers

CONFIG = Path(__file__).parents[2] / "systemd" / "config"
SETTING = re.compile(r"^#(?P<key>[a-z0-9_]+) =(?P<value>.*)$")
DAEMONS: dict[str, type[Any]] = {
    "lockd.toml": lockd_config.Settings,
    "lockd-fleetlock.toml": fleetlock_config.ServerSettings,
    "updated.toml": updated_config.Settings,
}


def uncomment(text: str) -> tuple[str, set[str]]:
    """Return the file with every default in force, and the dotted keys that it shows without a value."""
    lines, empty, table = [], set(), ""
    for line in text.splitlines():
        setting = SETTING.match(line)
        if line.startswith("["):
            table = line.strip("[]") + "."
        if setting and not setting["value"].split("#")[0].strip():
            empty.add(table + setting["key"])
        else:
            lines.append(line.removeprefix("#") if setting else line)
    return "\n".join(lines), empty


@pytest.mark.parametrize("name", sorted(DAEMONS))
def test_defaults_are_the_codes(name: str) -> None:
    """With every line uncommented, the file gives exactly the settings that no file at all gives."""
    text, empty = uncomment((CONFIG / name).read_text())
    layers = Layers()
    layers.put(tomllib.loads(text), name)
    settings, unknown = fill(DAEMONS[name], layers)
    defaults = flatten(DAEMONS[name]())
    assert unknown == ()
    assert flatten(settings) == defaults
    assert set(layers.values) | empty == set(defaults), "a key is missing, or too many"
    assert {key for key in empty if defaults[key] is not None} == set()


@pytest.mark.parametrize("name", sorted(DAEMONS))
def test_the_file_as_installed_changes_nothing(name: str) -> None:
    """The vendor file as it is installed sets no key: every one is a comment."""
    parsed = tomllib.loads((CONFIG / name).read_text())
    assert all(table == {} for table in parsed.values())
    assert dataclasses.is_dataclass(DAEMONS[name])
