"""A host goes from one Debian to the next and back: another Python, another systemd, one state for both."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fixtures.image.slot import SystemRelease, slot_digest
from tests.e2e.conftest import MakeHost, StartRow
from tests.e2e.releases import FIRST
from tests.support.nspawn import NspawnHost
from tests.support.nspawn_server import ReleaseServer

TRIXIE = SystemRelease("2.0.0", suite="trixie")
BOOKWORM = SystemRelease("2.1.0")
VERSIONS = "import sys, subprocess; print(sys.version_info[1], subprocess.getoutput('systemctl --version').split()[1])"


def versions(host: NspawnHost) -> tuple[int, int]:
    """Return the minor version of Python and the version of systemd that run."""
    minor, systemd = host.run("python3", "-c", VERSIONS).stdout.split()
    return int(minor), int(systemd)


def see_running(host: NspawnHost, release: SystemRelease, slot: str) -> None:
    """The release runs with both daemons, confirmed, on the Python and the systemd of its Debian."""
    host.wait_status("confirmed boot", boot_confirmed=True, version_booted=release.version, slot_booted=slot)
    assert versions(host) == ((13, 257) if release.suite == "trixie" else (11, 252))
    host.wait_active("lockd.service")
    assert host.bits()[f"USR-{slot}"].successful


def history(host: NspawnHost) -> list[Any]:
    """Return what the agent remembers of earlier installs."""
    return list(json.loads(host.run("update-ctl", "history", "--json").stdout))


@pytest.mark.timeout(900)
def test_from_one_debian_to_the_next_and_back(
    nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow
) -> None:
    """A host goes from Debian 12 to 13, by an update back to 12, by hand to 13; each reads the state before."""
    row = scenario("nspawn", "Debian 12 to 13 and back")
    host = nspawn_host()
    host.write("updated/conf.d/50-test.toml", release_server.settings)
    host.write("lockd/conf.d/50-test.toml", 'strategy = "off"\n')
    row.booted(host.boot().label)
    see_running(host, FIRST, "A")
    remembered: list[Any] = []
    for release, slot in ((TRIXIE, "B"), (BOOKWORM, "A")):
        release_server.publish(release)
        host.run("update-ctl", "update", "--wait")
        host.run("systemctl", "reboot", check=False)
        row.booted(host.wait_reboot().label)
        see_running(host, release, slot)
        now = history(host)
        assert len(now) > len(remembered)
        assert [entry for entry in remembered if entry not in now] == []
        remembered = now
    host.run("update-ctl", "rollback", "--yes")
    host.run("systemctl", "reboot", check=False)
    row.booted(host.wait_reboot().label)
    see_running(host, TRIXIE, "B")
    assert host.messages("--unit=updated.service", "--unit=lockd.service", "-p", "err") == ""
    assert host.shut_down() == 0
    assert host.boots == ["USR-A", "USR-B", "USR-A", "USR-B"]
    assert [host.slot_digest(label) for label in ("USR-A", "USR-B")] == [slot_digest(BOOKWORM), slot_digest(TRIXIE)]
