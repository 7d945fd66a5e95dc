"""An install that is cut: the agent killed at ten points, the machine rebooted in mid-download."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.image.disk import MIB
from fixtures.image.slot import SystemRelease, slot_digest
from tests.e2e.conftest import MakeHost, StartRow
from tests.e2e.releases import FIRST
from tests.support.nspawn import NspawnHost
from tests.support.nspawn_server import ReleaseServer
from tests.support.processes import wait_for
from tests.support.tap import Tap

LARGE = SystemRelease("1.2.0", filler=32 * MIB)
NEEDED = 48 * MIB  # what a host that has FIRST fetches of it
LOST_AT_A_KILL = 6 * MIB  # fetched ahead, or written since the last flush
# bytes that come between two kills: from before the index is there to nearly all
STEPS = (0, 128 * 1024, MIB, 4 * MIB, 4 * MIB, 6 * MIB, 6 * MIB, 6 * MIB)


@pytest.fixture
def tap() -> Iterator[Tap]:
    with Tap() as made:
        yield made


@pytest.fixture
def tapped_server(tmp_path: Path, tap: Tap) -> Iterator[ReleaseServer]:
    with ReleaseServer(tmp_path / "releases", tap) as running:
        running.publish(LARGE)
        yield running


def make_ready(host: NspawnHost, server: ReleaseServer) -> None:
    """Boot it for the first time; lockd lets it up to the test when it reboots."""
    host.write("updated/conf.d/50-test.toml", server.settings)
    host.write("lockd/conf.d/50-test.toml", 'strategy = "off"\n')
    host.boot()
    host.wait_status("confirmed boot", boot_confirmed=True)


def see_intact(host: NspawnHost) -> None:
    """Slot A is as it was and would boot; slot B can't boot by either copy of the table, or it is complete."""
    may_boot = host.eligible()
    assert "USR-A" in may_boot
    assert host.slot_digest("USR-A") == slot_digest(FIRST)
    assert "USR-B" not in may_boot or host.slot_digest("USR-B") == slot_digest(LARGE)


def kill_agent(host: NspawnHost) -> None:
    """Kill the agent as the kernel would, and have systemd start it again without the usual pause."""
    os.kill(host.pid_of("updated"), signal.SIGKILL)
    host.wait_active("updated.service", "activating")  # auto-restart
    see_intact(host)
    host.run("systemctl", "reset-failed", "updated.service")
    host.run("systemctl", "start", "updated.service")


def test_agent_killed_at_ten_points(
    nspawn_host: MakeHost, tapped_server: ReleaseServer, tap: Tap, scenario: StartRow
) -> None:
    """Killed at ten points of an install the agent goes on where it was, no slot is half bootable, and it ends well."""
    row = scenario("nspawn", "SIGKILL at ten points of an install")
    host = nspawn_host()
    make_ready(host, tapped_server)
    row.booted("USR-A")
    for step in STEPS:
        tap.hold_after(step)
        host.run("update-ctl", "update")
        wait_for(lambda: tap.holds, f"download held after {step} bytes more")
        kill_agent(host)
        assert host.eligible() == {"USR-A"}
    tap.open()
    host.run("update-ctl", "update")
    wait_for(lambda: tap.passed >= LARGE.filler and not tap.busy, "all data there")
    kill_agent(host)  # it reads back what it wrote
    host.run("update-ctl", "update", check=False)  # it may have been complete
    wait_for(lambda: "USR-B" in host.eligible(), "slot B armed")
    kill_agent(host)  # it writes the second copy of the table, or remembers that it did
    host.wait_status("an armed release remembered", state="need-reboot", version_new=LARGE.version)
    assert tap.passed < NEEDED + 10 * LOST_AT_A_KILL, "what was there already was fetched again"
    host.run("systemctl", "reboot", check=False)
    row.booted(host.wait_reboot().label)
    host.wait_status("confirmed boot", boot_confirmed=True, version_booted=LARGE.version, slot_booted="B")
    assert host.shut_down() == 0
    assert [host.slot_digest(label) for label in ("USR-A", "USR-B")] == [slot_digest(FIRST), slot_digest(LARGE)]


def test_reboot_in_mid_download(
    nspawn_host: MakeHost, tapped_server: ReleaseServer, tap: Tap, scenario: StartRow
) -> None:
    """A reboot in mid-download comes at once and finds slot A; after it the install goes on where it was."""
    row = scenario("nspawn", "systemctl reboot in mid-download")
    host = nspawn_host()
    make_ready(host, tapped_server)
    row.booted("USR-A")
    tap.hold_after(16 * MIB)
    host.run("update-ctl", "update")
    wait_for(lambda: tap.holds, "download held")
    host.run("systemctl", "reboot", check=False)
    assert host.wait_end() == 133
    errors = host.messages("-u", "updated.service", "-u", "lockd.service", "-p", "err", boot=0)
    assert errors == ""
    see_intact(host)
    tap.open()
    row.booted(host.boot().label)
    assert host.boots == ["USR-A", "USR-A"]
    host.wait_status("confirmed boot", boot_confirmed=True)
    host.run("update-ctl", "update", "--wait")
    assert tap.passed < NEEDED + LOST_AT_A_KILL, "what was there already was fetched again"
    assert host.bits()["USR-B"].tries == 3
    host.run("systemctl", "reboot", check=False)
    row.booted(host.wait_reboot().label)
    host.wait_status("confirmed boot", boot_confirmed=True, version_booted=LARGE.version, slot_booted="B")
    assert host.shut_down() == 0
    assert [host.slot_digest(label) for label in ("USR-A", "USR-B")] == [slot_digest(FIRST), slot_digest(LARGE)]
