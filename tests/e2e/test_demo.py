"""The demo is a test too: it is the whole path on real parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_demo_plays_to_its_end() -> None:
    """`make demo`'s story ends well: an update, a refused forgery, a rollback, each as the table says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.demo"], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    table = done.stdout.split("What was seen:")[1]
    for line in (
        "1.1.0 from USR-B",
        "refused, exit code 3",
        "USR-A, then 1.1.0 from USR-B",
        "not taken",
        "demo passed",
    ):
        assert line in table
