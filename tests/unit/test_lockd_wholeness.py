"""A policy that isn't all that its author wrote is no permission: nothing reboots by it, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockd.config import load
from lockd.errors import LockdError

WHOLE = """strategy = "etcd"
group = "web"

[etcd]
endpoints = ["https://127.0.0.1:2379", "https://127.0.0.1:2479"]
ca_file = "ca.pem"

[[window]]
start = "02:00"
duration_secs = 14400
"""


def doubt(tmp_path: Path, text: str) -> str:
    path = tmp_path / "lockd.toml"
    path.write_text(text)
    try:
        return load(path, {}).doubt
    except LockdError as error:
        return error.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ('group = "web"\n', "doesn't say which strategy"),
        ('strategy = "local"', "ends in the middle of a line"),
        ('\ufeffstrategy = "local"\n', "is not TOML"),
        ('strategy = "local"\nnonsense = 1\n', "nothing knows the setting nonsense"),
        ('strategy = "etcd"\n[etcd]\nendpoints = ["http://h:1"]\nblackout = ["2026-12-24"]\n', "etcd.blackout"),
        ('[etcd]\nendpoints = ["http://h:1"]\nstrategy = "off"\n', "etcd.strategy"),
    ],
)
def test_what_is_not_whole_is_doubted(tmp_path: Path, text: str, words: str) -> None:
    """Empty, cut in a line, led by a byte order mark, without its strategy, or with a setting in the wrong table."""
    assert words in doubt(tmp_path, text)


def test_whole_policy_is_not_doubted(tmp_path: Path) -> None:
    """Nothing speaks against the policy that the cuts are made of, nor against empty drop-ins beside it."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "50-masks.toml").write_text("")
    assert doubt(tmp_path, WHOLE) == ""


def test_cut_anywhere_but_after_a_line_is_doubted(tmp_path: Path) -> None:
    """A policy that was cut at any byte within a line is doubted; one that ends with a whole line can't be told."""
    passed = [cut for cut in range(len(WHOLE)) if doubt(tmp_path, WHOLE[:cut]) == ""]
    assert all(WHOLE[cut - 1] == "\n" for cut in passed)
    assert WHOLE.index("[[window]]") in passed, "the one kind that is left: a table's heading is where a file may end"


def test_drop_in_is_held_to_the_same(tmp_path: Path) -> None:
    """A drop-in that ends in the middle of a line is doubted; it needs no strategy."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "50-more.toml").write_text("spread_secs = 60")
    assert "ends in the middle of a line" in doubt(tmp_path, WHOLE)
    (tmp_path / "conf.d" / "50-more.toml").write_text("spread_secs = 60\n")
    assert doubt(tmp_path, WHOLE) == ""
