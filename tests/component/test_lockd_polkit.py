"""The polkit rule, asked of a real polkitd: lockd may ask logind for a plain reboot, and for nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POLKITD = Path("/usr/lib/polkit-1/polkitd")
RULES = Path("/usr/share/polkit-1/rules.d")  # where versions that read such rules have them; 0.105 reads none
LOGIND = Path("/usr/share/polkit-1/actions/org.freedesktop.login1.policy")
ACTIONS = ("reboot", "reboot-multiple-sessions", "set-wall-message", "reboot-ignore-inhibit", "power-off", "halt")


@pytest.mark.skipif(
    os.geteuid() != 0 or not (POLKITD.exists() and RULES.is_dir() and LOGIND.exists()),
    reason="NOT TESTED HERE: it needs root, polkitd 121 or newer, and logind's actions",
)
def test_lockd_may_reboot_and_nothing_more(tmp_path: Path) -> None:
    """The user lockd gets the plain reboot and its message, and no way past inhibitors; another user gets nothing."""
    script, rule = ROOT / "tests/support/polkit_asks.sh", ROOT / "systemd/polkit/50-lockd.rules"
    names = [f"org.freedesktop.login1.{action}" for action in ACTIONS]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", str(script), str(tmp_path), str(rule), *names],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    granted = {"reboot", "reboot-multiple-sessions", "set-wall-message"}
    expected = [f"lockd {action} {'yes' if action in granted else 'no'}" for action in ACTIONS]
    assert done.stdout.splitlines() == [*expected, *(f"other {action} no" for action in ACTIONS)]
