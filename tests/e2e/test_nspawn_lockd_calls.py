"""Which system calls lockd and lockd-fleetlock make under a real systemd: their units' filters allow them all."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHost, StartRow
from tests.support.certificates import Authority
from tests.support.etcd import Etcd, free_port
from tests.support.fleetlock import Zincati
from tests.support.nspawn import NspawnHost
from tests.support.nspawn_lockd import add_program, etcd_policy, holders, log_in, show, shown
from tests.support.processes import wait_for
from tests.support.traced import STOPPED_FIRST, allowed_by, calls_of, denied_in, filter_of, traced

# a forbidden call ends the process, where the shipped unit lets it fail with EPERM: nothing gets past unseen
FATAL = "[Service]\nSystemCallErrorNumber=kill\n"
# systemctl, in a program, asks for larger limits and buffers, which nobody gets without a capability
SYSTEMCTL_TRIES = ("prlimit64(0, RLIMIT_NOFILE", "SO_RCVBUFFORCE", "SO_SNDBUFFORCE")
PEOPLE = "[sessions]\ngrace_secs = 3\n"


def drain_and_wait(host: NspawnHost) -> None:
    """Have it do what it does before a reboot: settings read again, programs, people, ticket, logind."""
    add_program(host, "blockers.d/10-go", "true")
    add_program(host, "pre-reboot.d/10-drain", "systemctl is-active dbus.service")
    add_program(host, "post-boot.d/10-back", "touch /var/lib/lockd/back")
    log_in(host)
    host.run("systemctl", "reload", "lockd")
    for command in ("status", "machines", "windows", "explain"):
        host.run("lockctl", command, user="ann")
    host.run("lockctl", "reboot", check=False)
    wait_for(lambda: "reboots" in shown(host), "words on the terminal")


@pytest.mark.timeout(900)
def test_reboot_and_release_make_no_forbidden_call(nspawn_host: MakeHost, scenario: StartRow, tmp_path: Path) -> None:
    """From start over reload, programs, people, ticket and reboot to release, no call of lockd's is forbidden."""
    row = scenario("nspawn", "lockd: forbidden calls are fatal, all are listed")
    traces = tmp_path / "first.trace", tmp_path / "second.trace"
    with Etcd(tmp_path / "etcd") as etcd:
        host = nspawn_host()
        host.write("lockd/lockd.toml", etcd_policy(etcd, PEOPLE))
        host.drop_in("lockd.service", FATAL + STOPPED_FIRST.format(name="lockd"))
        row.booted(host.boot(wait=False).label)
        with traced(host, "lockd", traces[0]):
            host.wait_status("confirmed", boot_confirmed=True)
            host.wait_active("lockd.service")
            drain_and_wait(host)
            host.wait_end()
        assert holders(etcd) == {host.machine_id: "rebooting"}
        row.booted(host.boot(wait=False).label)
        with traced(host, "lockd", traces[1]):
            wait_for(lambda: holders(etcd) == {}, "release of the ticket")
            host.run("test", "-e", "/var/lib/lockd/back")
            assert show(host, "lockd", "NRestarts")["NRestarts"] == "0"
    used = set().union(*map(calls_of, traces))
    assert {"execve", "connect", "sendto", "fsync", "rename", "wait4"} - used == set(), "the trace has the work in it"
    assert used - allowed_by(filter_of("lockd")) == set()
    denied = [line for trace in traces for line in denied_in(trace)]
    assert [line for line in denied if not any(call in line for call in SYSTEMCTL_TRIES)] == []


@pytest.mark.timeout(600)
def test_lock_manager_makes_no_forbidden_call(nspawn_host: MakeHost, scenario: StartRow, tmp_path: Path) -> None:
    """lockd-fleetlock answers hosts over TLS, out of etcd, and asks for nothing that its filter forbids."""
    row = scenario("nspawn", "lockd-fleetlock: forbidden calls are fatal, all are listed")
    authority, port, trace = Authority(tmp_path / "certificates"), free_port(), tmp_path / "served.trace"
    pair, folder = authority.issue("server"), "/etc/lockd-fleetlock"
    with Etcd(tmp_path / "etcd") as etcd:
        host = nspawn_host()
        host.write("lockd/lockd.toml", 'strategy = "off"\n')
        host.write("lockd-fleetlock/server.pem", pair.cert.read_text())
        host.write("lockd-fleetlock/server.key", pair.key.read_text())
        host.write("lockd-fleetlock/tokens", "a token\n")
        host.write(
            "lockd-fleetlock/lockd-fleetlock.toml",
            f'listen = "127.0.0.1:{port}"\ngroups = ["web"]\ntoken_file = "{folder}/tokens"\n'
            f'cert_file = "{folder}/server.pem"\nkey_file = "{folder}/server.key"\n'
            f'[etcd]\nendpoints = ["{etcd.endpoint}"]\n',
        )
        host.drop_in("lockd-fleetlock.service", FATAL + STOPPED_FIRST.format(name="lockd-fleetlock"))
        row.booted(host.boot().label)
        host.run("systemctl", "start", "--no-block", "lockd-fleetlock")
        with traced(host, "lockd-fleetlock", trace):
            host.wait_active("lockd-fleetlock.service")
            context = ssl.create_default_context(cafile=str(authority.ca))
            client = Zincati(f"https://127.0.0.1:{port}/", "coreos-1", "web", "a token", context)
            assert client.pre_reboot()[0] == 200
            assert holders(etcd) == {"coreos-1": "rebooting"}
            assert client.steady_state()[0] == 200
            assert holders(etcd) == {}
            host.run("systemctl", "stop", "lockd-fleetlock")
        assert show(host, "lockd-fleetlock", "Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}
    used = calls_of(trace)
    assert {"accept4", "connect", "sendto", "listen"} - used == set(), "the trace has the work in it"
    assert used - allowed_by(filter_of("lockd-fleetlock")) == set()
    assert denied_in(trace) == []
