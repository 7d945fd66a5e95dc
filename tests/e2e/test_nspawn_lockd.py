"""lockd under a real systemd, in its shipped sandbox: tickets in etcd, hooks, polkit, people, reload, stop."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path

import pytest

from lockd import message_ids
from tests.e2e.conftest import MakeHost, StartRow
from tests.support.certificates import Authority
from tests.support.etcd import Etcd, free_port
from tests.support.nspawn import NspawnHost
from tests.support.nspawn_lockd import (
    PERSON,
    add_person,
    add_program,
    etcd_policy,
    explain,
    holders,
    log_in,
    show,
    shown,
    wait_gate,
)
from tests.support.processes import wait_for

BUS = ("org.lockd.Lockd1", "/org/lockd/Lockd1", "org.lockd.Lockd1.Manager")
LOCAL = 'strategy = "local"\nspread_secs = 0\n'


def confirmed(host: NspawnHost) -> None:
    """Wait until the boot counts as healthy, without which no reboot is asked for."""
    host.wait_status("confirmed", boot_confirmed=True)


def warnings(host: NspawnHost, *units: str, boot: int = 0) -> str:
    """Return what the units' logs have at warning and above."""
    return host.messages("-p", "warning", *(f"--unit={unit}" for unit in units or ("lockd.service",)), boot=boot)


@pytest.mark.timeout(600)
def test_reboot_with_a_ticket_in_etcd(nspawn_host: MakeHost, scenario: StartRow, tmp_path: Path) -> None:
    """In its shipped sandbox lockd runs programs, takes a ticket, has logind reboot, releases it, without a warning."""
    row = scenario("nspawn", "lockd: ticket in etcd, hooks, reboot, release")
    with Etcd(tmp_path / "etcd") as etcd:
        host = nspawn_host()
        host.write("lockd/lockd.toml", etcd_policy(etcd))
        row.booted(host.boot().label)
        confirmed(host)
        ran = "/var/lib/lockd/ran"
        add_program(host, "blockers.d/10-go", f"echo blocker by $(id -un) >> {ran}")
        add_program(host, "pre-reboot.d/10-drain", f"echo $LOCKD_EVENT of $LOCKD_GROUP >> {ran}")
        add_program(host, "post-boot.d/10-back", f"echo $LOCKD_EVENT >> {ran}")
        host.start("lockctl", "reboot")
        row.booted(host.wait_reboot(wait=False).label)
        assert holders(etcd) == {host.machine_id: "rebooting"}
        host.wait_started()
        confirmed(host)
        wait_for(lambda: holders(etcd) == {}, "release of the ticket")
        lines = host.run("cat", ran).stdout.splitlines()
        assert lines[0] == "blocker by lockd"
        assert [line for line in lines if "blocker" not in line] == ["pre-reboot of web", "post-boot"]
        assert (warnings(host, boot=-1), warnings(host)) == ("", "")
        told = [
            host.journal(f"MESSAGE_ID={one}", boot=boot)
            for one, boot in (
                (message_ids.TICKET_TAKEN, -1), (message_ids.REBOOT_BEGINS, -1), (message_ids.TICKET_RELEASED, 0)
            )
        ]  # fmt: skip
        assert [[row["LOCKD_VERSION_FROM"] for row in rows] for rows in told] == [["1.0.0"]] * 3
        assert show(host, "lockd", "NRestarts", "User")["NRestarts"] == "0"


@pytest.mark.timeout(600)
def test_host_without_polkit(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """Without polkit nothing is drained, no slot is taken, explain and journal name it; with polkit lockd goes on."""
    row = scenario("nspawn", "lockd: no polkit, then polkit")
    host = nspawn_host()
    host.write("lockd/lockd.toml", LOCAL)
    row.booted(host.boot().label)
    confirmed(host)
    add_program(host, "pre-reboot.d/10-drain", "touch /var/lib/lockd/drained")
    host.run("systemctl", "mask", "--runtime", "--now", "polkit.service")
    asked = host.run("lockctl", "reboot", check=False)
    assert asked.returncode == 3
    assert "polkit can't be asked: Unit polkit.service is masked." in asked.stderr
    assert "polkit" in warnings(host)
    rule = "/usr/share/polkit-1/rules.d/50-lockd.rules"
    host.run("systemctl", "unmask", "--runtime", "polkit.service")
    host.run("mount", "--bind", "/dev/null", rule)
    host.run("systemctl", "restart", "polkit.service")
    asked = host.run("lockctl", "reboot", check=False)
    assert asked.returncode == 3
    assert "polkit has no rule" in asked.stderr
    assert "50-lockd.rules" in asked.stderr
    drained = "/var/lib/lockd/drained"
    assert host.run("test", "-e", drained, check=False).returncode == 1
    assert json.loads(host.run("lockctl", "status", "--json").stdout)["holders"] == []
    host.run("umount", rule)
    host.run("systemctl", "restart", "polkit.service")
    host.start("lockctl", "reboot")
    row.booted(host.wait_reboot().label)
    host.run("test", "-e", drained)


@pytest.mark.timeout(600)
def test_inhibitor_holds_the_reboot_back(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """A program's inhibitor lock is named and heeded; a drain isn't begun for it, and the reboot goes on without it."""
    row = scenario("nspawn", "lockd: an inhibitor lock")
    host = nspawn_host()
    host.write("lockd/lockd.toml", LOCAL)
    row.booted(host.boot().label)
    confirmed(host)
    lock = ("systemd-inhibit", "--what=shutdown", "--mode=block", "--who=backup", "--why=the tape runs")
    host.run("systemd-run", "--quiet", "--unit=tape", *lock, "sleep", "infinity")
    wait_for(lambda: "backup" in host.run("systemd-inhibit", "--list").stdout, "inhibitor lock")
    asked = host.run("lockctl", "reboot", check=False)
    assert asked.returncode == 3
    assert "backup: the tape runs" in asked.stderr
    host.run("systemctl", "stop", "tape")
    host.start("lockctl", "reboot")
    row.booted(host.wait_reboot().label)


@pytest.mark.timeout(600)
def test_person_on_a_terminal_is_told(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """Who is logged in on a terminal that only its owner may write (mode 0600) reads of the reboot, and of its end."""
    row = scenario("nspawn", "lockd: a person on a terminal")
    host = nspawn_host()
    host.write("lockd/lockd.toml", f"{LOCAL}[sessions]\ngrace_secs = 600\n")
    row.booted(host.boot().label)
    confirmed(host)
    log_in(host)
    wait_for(lambda: host.run("stat", "--format=%a", "/dev/pts/0").stdout.strip() == "600", "a terminal for one's own")
    asked = host.run("lockctl", "reboot", check=False)
    assert f"logged in: {PERSON} on pts/0" in asked.stderr
    wait_for(lambda: "reboots: somebody asked" in shown(host), "words on the terminal")
    assert "The system will reboot at" in shown(host)
    before = wait_gate(host, "blockers", PERSON)["reason"]
    host.write("lockd/lockd.toml", f"{LOCAL}[sessions]\ngrace_secs = 2\n")
    host.run("systemctl", "reload", "lockd")
    wait_for(lambda: "shutdown has been cancelled" in shown(host), "the end of the first countdown on the terminal")
    assert "s" in before
    row.booted(host.wait_reboot().label)
    host.run("test", "!", "-e", "/run/nologin")
    assert warnings(host, boot=-1) == ""


@pytest.mark.timeout(600)
def test_reload_keeps_the_daemon(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """`systemctl reload` puts a policy in force in the same process; a wrong one fails it, stops reboots, is told."""
    row = scenario("nspawn", "lockd: reload, a wrong policy")
    host = nspawn_host()
    opens = datetime.now(UTC) + timedelta(hours=3)
    closed = f'{LOCAL}[[window]]\nstart = "{opens:%H:%M}"\nduration_secs = 3600\n'
    host.write("lockd/lockd.toml", LOCAL)
    row.booted(host.boot().label)
    confirmed(host)
    add_person(host)
    process = show(host, "lockd", "MainPID")["MainPID"]
    host.write("lockd/lockd.toml", closed)
    host.run("systemctl", "reload", "lockd")
    wait_for(lambda: not json.loads(host.run("lockctl", "windows", "--json").stdout)["open"], "window in force")
    assert host.run("lockctl", "reboot", check=False).returncode == 3
    host.write("lockd/lockd.toml", closed.replace("[[window]]", "[[windows]]"))
    failed = host.run("systemctl", "reload", "lockd", check=False)
    assert failed.returncode != 0
    assert "unknown setting windows" in warnings(host)
    assert "unknown setting windows" in wait_gate(host, "strategy", "settings are wrong")["reason"]
    assert "unknown setting windows" in host.run("lockctl", "windows", user=PERSON).stdout
    assert (show(host, "lockd", "MainPID")["MainPID"], show(host, "lockd", "ActiveState")["ActiveState"]) == (
        process, "active",
    )  # fmt: skip
    host.write("lockd/lockd.toml", LOCAL)
    host.run("systemctl", "reload", "lockd", check=False)  # the host goes down at once: somebody asked before
    row.booted(host.wait_reboot().label)


@pytest.mark.timeout(600)
def test_settings_that_are_wrong_at_the_start(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """Lockd ends once, isn't started again, explain tells the slip, and after a correction a start brings it back."""
    row = scenario("nspawn", "lockd: wrong settings at the start")
    host = nspawn_host()
    host.write("lockd/lockd.toml", 'strategy = "etc"\n')
    row.booted(host.boot().label)
    host.wait_active("lockd.service", "failed")
    assert show(host, "lockd", "NRestarts", "ExecMainStatus") == {"NRestarts": "0", "ExecMainStatus": "78"}
    told = host.run("lockctl", "explain", check=False)
    assert told.returncode == 1
    assert "strategy must be one of" in told.stdout
    assert show(host, "lockd", "ActiveState")["ActiveState"] == "failed", "asking starts nothing"
    host.write("lockd/lockd.toml", LOCAL)
    host.run("systemctl", "start", "lockd")
    wait_gate(host, "need", "no reboot is wanted")
    assert host.shut_down() == 0


@pytest.mark.timeout(600)
def test_everybody_reads_and_root_changes(nspawn_host: MakeHost, scenario: StartRow, tmp_path: Path) -> None:
    """On the real bus, under the shipped policy, a user reads what lockd knows, and neither its settings nor more."""
    row = scenario("nspawn", "lockd: a user who isn't root")
    with Etcd(tmp_path / "etcd") as etcd:
        host = nspawn_host()
        host.write("lockd/lockd.toml", etcd_policy(etcd, 'username = ""\n'))
        row.booted(host.boot().label)
        confirmed(host)
        add_person(host)
        host.run("lockctl", "lock", "web-7")
        assert host.run("cat", "/etc/lockd/lockd.toml", user=PERSON, check=False).returncode == 1
        gates = [gate["gate"] for gate in explain(host, PERSON)]
        assert gates[:2] == ["need", "strategy"]
        group = json.loads(host.run("lockctl", "status", "--json", user=PERSON).stdout)
        assert [one["id"] for one in group["holders"]] == ["web-7"]
        assert "web-7" in host.run("lockctl", "machines", user=PERSON).stdout
        windows = json.loads(host.run("lockctl", "windows", "--json", "--next", "1", user=PERSON).stdout)
        assert (windows["open"], windows["next"]) == (True, [])
        for command in (["lock"], ["unlock"], ["pause"], ["resume"], ["set-max", "9"], ["reboot"], ["reload"]):
            done = host.run("lockctl", *command, user=PERSON, check=False)
            assert (done.returncode, "root" in done.stderr) == (3, True), (command, done.stderr)
        assert holders(etcd) == {"web-7": "manual"}
        host.run("systemctl", "stop", "lockd")
        asked = host.run("lockctl", "status", user=PERSON, check=False)
        assert asked.returncode == 4
        assert show(host, "lockd", "ActiveState")["ActiveState"] == "inactive", "asking starts nothing"
        assert host.shut_down() == 0


@pytest.mark.timeout(600)
def test_bus_and_daemons_restarted_in_every_order(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """Whatever of bus, logind and lockd is started anew, lockd answers again, and nothing fails at the shutdown."""
    row = scenario("nspawn", "lockd: bus, logind, lockd restarted in every order")
    host = nspawn_host()
    host.write("lockd/lockd.toml", LOCAL)
    host.drop_in("lockd.service", "[Service]\nRestartSec=100ms\n")
    row.booted(host.boot().label)
    confirmed(host)
    for order in permutations(("dbus.service", "systemd-logind.service", "lockd.service")):
        for unit in order:
            host.run("systemctl", "restart", unit)
            host.run("systemctl", "reset-failed", unit)  # its count of starts, which are many here in a short time
        host.wait_active("lockd.service")
        wait_for(lambda: host.run("lockctl", "explain", check=False).returncode == 0, f"lockd after {order}")
    host.run("systemctl", "stop", "dbus.socket", "dbus.service")
    host.wait_active("lockd.service", "activating")
    host.run("systemctl", "start", "dbus.socket")
    wait_for(lambda: host.run("lockctl", "explain", check=False).returncode == 0, "lockd after the bus was gone")
    host.run("systemctl", "disable", "--now", "lockd")
    host.run("busctl", "call", *BUS, "Status", check=False)
    assert show(host, "lockd", "ActiveState")["ActiveState"] == "inactive", "the bus starts no disabled service"
    host.run("systemctl", "enable", "lockd")
    host.run("busctl", "call", *BUS, "Status")
    host.wait_active("lockd.service")
    assert host.run("systemctl", "list-units", "--failed", "--no-legend", "lockd*").stdout == ""
    assert host.shut_down() == 0
    rows = host.journal("--unit=lockd.service", boot=0)
    begun = max(place for place, row in enumerate(rows) if "event=ready" in row["MESSAGE"])
    assert any("event=stopped" in row["MESSAGE"] for row in rows[begun:])
    assert [row["MESSAGE"] for row in rows[begun:] if int(row["PRIORITY"]) <= 4] == []
    assert not any("Traceback" in row["MESSAGE"] or "never retrieved" in row["MESSAGE"] for row in rows)


@pytest.mark.timeout(600)
def test_work_that_takes_longer_than_the_watchdog(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """A blocker and a drain that each take longer than the watchdog's time don't end the daemon."""
    row = scenario("nspawn", "lockd: programs slower than the watchdog")
    host = nspawn_host()
    host.write("lockd/lockd.toml", LOCAL)
    host.drop_in("lockd.service", "[Service]\nWatchdogSec=3\n")
    row.booted(host.boot().label)
    confirmed(host)
    process = show(host, "lockd", "MainPID")["MainPID"]
    add_program(host, "blockers.d/10-slow", "sleep 4")
    add_program(host, "pre-reboot.d/10-slow", "sleep 8; echo $PPID > /var/lib/lockd/drained-by")
    host.start("lockctl", "reboot")
    row.booted(host.wait_reboot().label)
    assert host.run("cat", "/var/lib/lockd/drained-by").stdout.strip() == process
    assert "watchdog" not in host.messages("--unit=lockd.service", boot=-1).lower()


@pytest.mark.timeout(600)
def test_lock_manager_and_its_client(nspawn_host: MakeHost, scenario: StartRow, tmp_path: Path) -> None:
    """lockd-fleetlock, in its shipped sandbox and with TLS, grants lockd its reboot from etcd, and takes it back."""
    row = scenario("nspawn", "lockd-fleetlock: TLS, a grant, a reboot, its end")
    pair, port = (authority := Authority(tmp_path / "certificates")).issue("server"), free_port()
    with Etcd(tmp_path / "etcd") as etcd:
        host = nspawn_host()
        host.write("lockd-fleetlock/server.pem", pair.cert.read_text())
        host.write("lockd-fleetlock/server.key", pair.key.read_text())
        host.write("lockd-fleetlock/tokens", "a token\n")
        host.write(
            "lockd-fleetlock/lockd-fleetlock.toml",
            f'listen = "127.0.0.1:{port}"\ngroups = ["web"]\ntoken_file = "/etc/lockd-fleetlock/tokens"\n'
            'cert_file = "/etc/lockd-fleetlock/server.pem"\nkey_file = "/etc/lockd-fleetlock/server.key"\n'
            f'[etcd]\nendpoints = ["{etcd.endpoint}"]\n',
        )
        host.write("lockd/ca.pem", authority.ca.read_text())
        host.write("lockd/token", "a token\n")
        host.write(
            "lockd/lockd.toml",
            'strategy = "fleetlock"\ngroup = "web"\nspread_secs = 0\n[fleetlock]\nid = "far-1"\n'
            f'base_url = "https://127.0.0.1:{port}/"\nca_file = "/etc/lockd/ca.pem"\ntoken_file = "/etc/lockd/token"\n',
        )
        row.booted(host.boot().label)
        host.run("systemctl", "enable", "--now", "lockd-fleetlock")
        confirmed(host)
        host.start("lockctl", "reboot")
        row.booted(host.wait_reboot(wait=False).label)
        assert holders(etcd) == {"far-1": "rebooting"}
        host.wait_started()
        confirmed(host)
        wait_for(lambda: holders(etcd) == {}, "release of the slot")
        host.wait_active("lockd-fleetlock.service")
        assert warnings(host, "lockd-fleetlock.service", boot=-1) == ""
        assert show(host, "lockd-fleetlock", "NRestarts", "User") == {"NRestarts": "0", "User": "lockd-fleetlock"}
