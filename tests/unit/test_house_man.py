"""The manual pages tell what the commands can do, no more and no less."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lockd import message_ids as lockd_message_ids
from updated.agent import message_ids

MAN = Path(__file__).parents[2] / "docs" / "man"
PAGES = {
    "updated": ("updated.8", "updated.main"),
    "update-ctl": ("update-ctl.1", "updated.ctl.main"),
    "update-payload": ("update-payload.1", "updated.release.main"),
    "update-server": ("update-server.1", "updated.server.main"),
    "lockd": ("lockd.8", "lockd.main"),
    "lockctl": ("lockctl.1", "lockd.ctl.main"),
    "lockd-fleetlock": ("lockd-fleetlock.8", "lockd.fleetlock_main"),
}


def help_of(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """Return what a command prints for `--help`."""
    monkeypatch.setattr(sys, "argv", ["x", *command, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main()
    assert ended.value.code == 0
    return capsys.readouterr().out


def options_in(text: str) -> set[str]:
    """Return the options that a help text's list defines."""
    _, _, listed = text.rpartition("options:")
    listed, _, _ = listed.partition("example:")
    return set(re.findall(r"^ +(?:-\w, )?--([a-z-]+)", listed, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_matches_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each page names exactly the subcommands and the options that `--help` lists."""
    page, module = PAGES[name]
    source = (MAN / page).read_text()
    overview = help_of(module, monkeypatch, capsys)
    commands = set(re.findall(r"^    ([a-z-]+)(?: |$)", overview.split("options:")[0], re.MULTILINE))
    options = options_in(overview)
    for command in sorted(commands):
        options |= options_in(help_of(module, monkeypatch, capsys, command))
    assert set(re.findall(r"^\.It Cm ([a-z-]+)", source, re.MULTILINE)) == commands
    assert set(re.findall(r"Fl Fl ([a-z-]+)", source)) == options


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_has_what_every_page_has(name: str) -> None:
    """Each page has a name, a synopsis, a description and the exit codes, and is listed under its own name."""
    page, _ = PAGES[name]
    source = (MAN / page).read_text()
    assert f".Nm {name}\n.Nd " in source
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"):
        assert f".Sh {section}\n" in source


@pytest.mark.parametrize(("page", "pinned_in"), [("updated.8", message_ids), ("lockd.8", lockd_message_ids)])
def test_message_ids_are_in_the_man_page_and_differ(page: str, pinned_in: ModuleType) -> None:
    """A daemon's page lists each MESSAGE_ID of its own and no other: 32 hex digits, no two the same."""
    pinned = [value for name, value in vars(pinned_in).items() if name.isupper()]
    listed = re.findall(r"^\.It ([0-9a-f]{32})$", (MAN / page).read_text(), re.MULTILINE)
    assert sorted(pinned) == sorted(set(listed))
