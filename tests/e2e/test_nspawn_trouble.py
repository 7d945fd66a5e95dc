"""What goes wrong on hosts: no room in /var, an /etc that can't be written, buses and daemons that come and go."""

from __future__ import annotations

from itertools import permutations

import pytest

from fixtures.image.slot import slot_digest
from tests.e2e.conftest import MakeHost, StartRow
from tests.e2e.releases import FIRST, NEXT
from tests.support.nspawn import NspawnHost
from tests.support.nspawn_server import ReleaseServer
from tests.support.processes import wait_for

OURS = ("--unit=updated.service", "--unit=lockd.service")
NO_REBOOT = 'strategy = "off"\n'
FILL = "dd if=/dev/zero of=/var/filler bs=64k 2>/dev/null; dd if=/dev/zero of=/var/filler.end bs=1 2>/dev/null; sync"


def make_ready(host: NspawnHost, server: ReleaseServer) -> None:
    """Boot it for the first time, with a release that waits at the server; when it reboots is up to the test."""
    server.publish(NEXT)
    host.write("updated/conf.d/50-test.toml", server.settings)
    host.write("lockd/conf.d/50-test.toml", NO_REBOOT)
    host.boot()
    host.wait_status("confirmed boot", boot_confirmed=True)


def reboot_into_next(host: NspawnHost) -> None:
    """Reboot it, and see the release confirmed on the disk."""
    host.run("systemctl", "reboot", check=False)
    host.wait_reboot()
    wait_for(lambda: host.bits()["USR-B"].successful, "slot B confirmed")
    host.wait_status("confirmed boot", boot_confirmed=True, version_booted=NEXT.version, slot_booted="B")
    assert host.slot_digest("USR-B") == slot_digest(NEXT)


def test_no_room_in_var(nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow) -> None:
    """With /var full an update fails with a reason, a new slot is confirmed on disk, and free space mends the rest."""
    row = scenario("nspawn", "/var full")
    host = nspawn_host()
    make_ready(host, release_server)
    row.booted("USR-A")
    host.run("sh", "-c", FILL)
    done = host.run("update-ctl", "update", "--wait", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "o space left" in done.stdout + done.stderr
    assert host.eligible() == {"USR-A"}
    assert host.slot_digest("USR-A") == slot_digest(FIRST)
    for unit in ("updated.service", "lockd.service"):
        host.wait_active(unit)
        assert host.run("systemctl", "show", "--property=NRestarts", "--value", unit).stdout == "0\n"
    host.run("sh", "-c", "rm /var/filler*; sync")
    host.run("update-ctl", "update", "--wait")
    host.run("sh", "-c", FILL)
    host.run("systemctl", "reboot", check=False)
    row.booted(host.wait_reboot().label)
    wait_for(lambda: host.bits()["USR-B"].successful, "slot B confirmed")
    told = wait_for(lambda: host.status()["last_error"], "reason why the rest failed")
    assert "o space left" in told["message"]
    host.run("sh", "-c", "rm /var/filler*; sync")
    host.run("systemctl", "restart", "updated.service")
    host.wait_status("confirmed boot", boot_confirmed=True, version_booted=NEXT.version, slot_booted="B")
    assert host.slot_digest("USR-B") == slot_digest(NEXT)
    assert host.shut_down() == 0


def test_etc_that_cannot_be_written(nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow) -> None:
    """Where /etc is read-only both daemons start as their users, and a release is installed, booted and confirmed."""
    row = scenario("nspawn", "/etc read-only")
    host = nspawn_host(read_only_etc=True)
    make_ready(host, release_server)
    row.booted("USR-A")
    assert host.run("touch", "/etc/x", check=False).returncode != 0
    assert host.run("systemctl", "list-units", "--failed", "--no-legend").stdout == ""
    assert host.run("systemctl", "show", "--property=User", "--value", "lockd.service").stdout == "lockd\n"
    host.wait_active("lockd.service")
    host.run("update-ctl", "update", "--wait")
    reboot_into_next(host)
    row.booted("USR-B")
    assert host.messages(*OURS, "-p", "warning") == ""
    assert host.shut_down() == 0


@pytest.mark.timeout(600)
def test_bus_and_agent_in_every_order(nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow) -> None:
    """Whatever of bus, logind, lockd and agent is started anew, and in whatever order, the agent answers and works."""
    row = scenario("nspawn", "bus, logind, lockd, agent restarted in every order")
    host = nspawn_host()
    make_ready(host, release_server)
    row.booted("USR-A")
    units = ("dbus.service", "systemd-logind.service", "lockd.service", "updated.service")
    for order in permutations(units, 2):
        host.run("systemctl", "reset-failed", *order)  # no unit is kept down for having been started often
        host.run("systemctl", "restart", *order)
        host.wait_status(f"answer after {order}", state="idle", boot_confirmed=True)
    host.run("systemctl", "stop", "dbus.socket", "dbus.service")
    host.run("systemctl", "start", "dbus.socket")
    host.wait_status("answer after the bus was gone", state="idle", boot_confirmed=True)
    host.run("update-ctl", "update", "--wait")
    reboot_into_next(host)
    row.booted("USR-B")
    assert host.shut_down() == 0
    assert host.messages(*OURS, "-p", "err", boot=0) == ""
    stopped = [row["UNIT"] for row in host.journal("_PID=1", boot=0) if row.get("MESSAGE", "").startswith("Stopped ")]
    ours = [stopped.index(unit) for unit in ("updated.service", "lockd.service")]
    assert max(ours) < stopped.index("dbus.service")


def test_settings_are_read_again(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """`systemctl reload` brings settings into the running agent; wrong ones fail it, are told, and change nothing."""
    row = scenario("nspawn", "reload")
    host = nspawn_host()
    row.booted(host.boot().label)
    host.wait_status("confirmed boot", boot_confirmed=True)
    pid = host.run("systemctl", "show", "--property=MainPID", "--value", "updated.service").stdout
    host.write("updated/conf.d/50-test.toml", '[server]\nurl = "disabled"\nproduct = "org.example.other"\n')
    host.run("systemctl", "reload", "updated.service")
    told = host.run("update-ctl", "update", "--wait", check=False)
    assert "(server.url) [config]" in told.stderr
    host.write("updated/conf.d/50-test.toml", "[server]\nurl = 7\n")
    failed = host.run("systemctl", "reload", "updated.service", check=False)
    assert failed.returncode != 0
    assert "server.url" in host.messages("--unit=updated.service", "-p", "err")
    host.wait_active("updated.service")
    assert host.run("systemctl", "show", "--property=MainPID", "--value", "updated.service").stdout == pid
    assert host.shut_down() == 0
