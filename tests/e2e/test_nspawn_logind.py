"""What the agent asks of the real logind: a lock while a slot's boot data change, and no more than that."""

from __future__ import annotations

import json

from tests.e2e.conftest import MakeHost, StartRow
from tests.support.nspawn_able import needs_machine

pytestmark = needs_machine()
# what the agent does around each change, with a look at logind's own list in the place of the change
HELD = """
import subprocess, sys
sys.path.insert(0, "/usr/lib/updated/python")
from updated.common.inhibit import Inhibitor
logind = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"]
look = lambda: subprocess.run(["busctl", "--json=short", "call", *logind, "ListInhibitors"], check=True)
with Inhibitor(None, "updated").held("slot B is made the next to boot"):
    look()
look()
"""


def test_lock_is_loginds_and_ends_with_the_change(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """Logind lists a delay lock on shutdowns, with the agent's name and the reason, while it is held and not after."""
    row = scenario("nspawn", "delay lock of logind's around a change")
    host = nspawn_host()
    row.booted(host.boot().label)
    done = host.run("python3", "-I", "-c", HELD)
    during, after = (json.loads(line)["data"][0] for line in done.stdout.splitlines())
    ours = [lock[:4] for lock in during if lock[1] == "updated"]
    assert ours == [["shutdown", "updated", "slot B is made the next to boot", "delay"]]
    assert [lock for lock in after if lock[1] == "updated"] == []
    assert host.shut_down() == 0
