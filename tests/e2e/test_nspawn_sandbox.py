"""The shipped sandbox in force: every path of the agent's goes without a system call that its unit forbids."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from fixtures.image.slot import SystemRelease
from tests.e2e.conftest import MakeHost, StartRow
from tests.support.nspawn import NspawnHost
from tests.support.nspawn_server import ReleaseServer
from tests.support.traced import STOPPED_FIRST, allowed_by, calls_of, denied_in, filter_of, traced

# a forbidden call ends the process, where the shipped unit lets it fail with EPERM: nothing gets past unseen
FATAL = "[Service]\nSystemCallErrorNumber=kill\n"
NEXT = SystemRelease("1.1.0")
CHECKS = '[health]\ncommands = [["sh", "-c", "echo well; ls /proc >/dev/null"], ["systemctl", "--failed"]]\n'
NO_LOCKD = 'strategy = "off"\n'


def new_host(nspawn_host: MakeHost, server: ReleaseServer, release: SystemRelease) -> NspawnHost:
    """Return a machine, off, for which a release waits at the server, and whose health gate has commands."""
    server.publish(release, rollback_index=0)  # as the first release, which can be gone back to
    host = nspawn_host()
    host.write("updated/conf.d/50-test.toml", server.settings)
    host.write("updated/conf.d/60-test.toml", CHECKS)
    return host


def ended_by_signal(host: NspawnHost) -> list[str]:
    """Return what systemd said of units of the product that a signal ended."""
    lines = [str(entry["MESSAGE"]) for entry in host.journal("_PID=1")]
    return [line for line in lines if re.match(r"(updated|lockd)", line) and re.search("SYS|killed|dumped", line)]


def test_whole_life_of_a_release_needs_no_forbidden_call(
    nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow
) -> None:
    """From the start over update, confirmation and reload to the rollback, no daemon asks for what is forbidden."""
    row = scenario("nspawn", "update and rollback, forbidden calls are fatal")
    host = new_host(nspawn_host, release_server, NEXT)
    for unit in ("updated", "lockd", "lockd-fleetlock"):
        host.drop_in(f"{unit}.service", FATAL)
    row.booted(host.boot().label)
    host.wait_status("confirmed", state="idle", boot_confirmed=True)
    host.run("update-ctl", "update", "--wait", timeout=120, check=False)  # the reboot may come before its last line
    row.booted(host.wait_reboot().label)
    host.wait_status("update confirmed", state="idle", version_booted="1.1.0", boot_confirmed=True)
    host.run("systemctl", "reload", "updated.service")
    host.run("systemctl", "restart", "updated.service")
    host.wait_status("after a restart", state="idle", boot_confirmed=True)
    host.run("update-ctl", "rollback", "--yes", timeout=120, check=False)
    row.booted(host.wait_reboot().label)
    host.wait_status("rollback confirmed", state="idle", version_booted="1.0.0", boot_confirmed=True)
    assert host.boots == ["USR-A", "USR-B", "USR-A"]
    assert ended_by_signal(host) == []
    assert host.run("systemctl", "show", "--value", "-p", "NRestarts", "updated.service").stdout.strip() == "0"


def test_forbidden_call_would_be_seen(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """The filter is in force: under it a program may change a file's mode, and is ended when it gives the file away."""
    row = scenario("nspawn", "negative control: the filter ends an fchown")
    host = nspawn_host()
    row.booted(host.boot().label)
    properties = [f"--property={line}" for line in [*filter_of("updated"), "SystemCallErrorNumber=kill"]]
    opened = "import os; file = os.open('/run/given', os.O_CREAT | os.O_WRONLY); "
    command = ["systemd-run", "--wait", "--pipe", "--quiet", *properties, "python3", "-c"]
    assert host.run(*command, opened + "os.fchmod(file, 0o600)").returncode == 0
    given = host.run(*command, opened + "os.fchown(file, 0, 0)", check=False)
    assert given.returncode == 128 + signal.SIGSYS or "SYS" in host.messages("_PID=1")


def test_system_calls_of_an_update_and_a_rollback_are_allowed(
    nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow, tmp_path: Path
) -> None:
    """Each system call of the agent's, from its start to the armed rollback, is in its filter, and none is refused."""
    row = scenario("nspawn", "the system calls of an update and a rollback")
    host = new_host(nspawn_host, release_server, NEXT)
    host.write("lockd/conf.d/50-test.toml", NO_LOCKD)
    host.drop_in("updated.service", STOPPED_FIRST.format(name="updated"))
    traces = [tmp_path / "first", tmp_path / "second"]
    row.booted(host.boot(wait=False).label)
    with traced(host, "updated", traces[0]):
        host.wait_status("confirmed", state="idle", boot_confirmed=True)
        host.run("update-ctl", "update", "--wait", timeout=240)
    host.run("systemctl", "--no-block", "reboot")
    row.booted(host.wait_reboot(wait=False).label)
    with traced(host, "updated", traces[1]):
        host.wait_status("confirmed", state="idle", version_booted="1.1.0", boot_confirmed=True)
        host.run("update-ctl", "rollback", "--yes", timeout=240)
    used = set().union(*map(calls_of, traces))
    assert {"execve", "pwrite64", "fsync", "fcntl", "connect"} <= used
    assert used - allowed_by(filter_of("updated")) == set()
    assert [line for trace in traces for line in denied_in(trace)] == []
