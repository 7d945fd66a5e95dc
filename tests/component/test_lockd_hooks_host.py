"""lockd as a process with the administrator's programs around it: drained, rebooted, brought back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.component.test_lockd_hooks import script
from tests.support.lockd_host import LockdHost
from tests.support.processes import wait_for

LOCAL = 'strategy = "local"\nreboot_retry_secs = 3600\n'


def test_host_is_drained_rebooted_and_brought_back(tmp_path: Path) -> None:
    """pre-reboot.d runs while the slot is held, post-boot.d before it is given back, each told the versions."""
    with LockdHost(tmp_path / "a", "host-a", LOCAL) as host:
        log = tmp_path / "log"
        words = f"echo $LOCKD_EVENT $LOCKD_GROUP $LOCKD_VERSION_FROM $LOCKD_VERSION_TO >> {log}"
        script(host.root / "pre-reboot.d", "10-drain", f"{words}; cp {host.root}/state/tickets.json {tmp_path}/held")
        script(host.root / "post-boot.d", "10-back", words)
        host.start()
        host.need_reboot("1.1.0")
        host.wait_reboot()
        assert '"held"' in (tmp_path / "held").read_text()
        host.power_cycle(boot_confirmed=False)
        host.wait_gate("release")
        assert log.read_text() == "pre-reboot web 1.0.0 1.1.0\n"
        host.agent.say(boot_confirmed=True, version_booted="1.1.0")
        host.wait_log("ticket-released")
        assert log.read_text() == "pre-reboot web 1.0.0 1.1.0\npost-boot web 1.0.0 1.1.0\n"


def test_failing_drain_means_no_reboot_and_no_slot(tmp_path: Path) -> None:
    """A hook that fails stops the reboot, gives the slot back, shows in explain, and a human may try again at once."""
    with LockdHost(tmp_path / "a", "host-a", LOCAL) as host:
        hook = script(host.root / "pre-reboot.d", "10-drain", "echo pods stay; exit 1")
        back = tmp_path / "back"
        script(host.root / "post-boot.d", "10-back", f"echo $LOCKD_EVENT >> {back}")
        host.start()
        host.need_reboot("1.1.0")
        gate = host.wait_gate("blockers")
        assert "10-drain ended with 1: pods stay" in gate["reason"]
        assert gate["ends_at"] is not None
        assert host.holders() == {}
        assert back.read_text() == "cancelled\n"
        assert not host.reboot_file.exists()
        hook.write_text("#!/bin/sh\n exit 0\n")
        done = host.lockctl("reboot")
        assert done.returncode == 0, done.stderr
        host.wait_reboot()


def test_blocker_programs_hold_and_let_go(tmp_path: Path) -> None:
    """A program in blockers.d holds the reboot back with its words, and explain says who can end it."""
    with LockdHost(tmp_path / "a", "host-a", LOCAL) as host:
        script(host.root / "blockers.d", "10-backup", f"test -e {tmp_path}/done || {{ echo backup runs; exit 1; }}")
        host.start()
        host.need_reboot("1.1.0")
        gate = host.wait_gate("blockers")
        assert "backup runs" in gate["reason"]
        assert gate["who"] == "the administrator of this host"
        assert "Who can open it: the administrator of this host" in host.lockctl("explain").stdout
        (tmp_path / "done").touch()
        host.agent.say()
        host.wait_reboot()


def test_inhibitor_and_people_hold_back_before_a_slot_is_taken(tmp_path: Path) -> None:
    """An inhibitor blocks; then people are told and counted down, with no slot held meanwhile; then it goes on."""
    wall, told = tmp_path / "wall", tmp_path / "told"
    wall.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" >> {told}\n')
    wall.chmod(0o755)
    more = f'{LOCAL}[sessions]\ngrace_secs = 1\nwall_command = ["{wall}"]\n'
    with LockdHost(tmp_path / "a", "host-a", more, logind=True) as host:
        person = {"c1": {"Class": "user", "TTY": "pts/1", "State": "active"}}
        host.agent.say(inhibitors={"dpkg": "installing"}, sessions=person)
        host.start()
        host.need_reboot("1.1.0")
        assert "dpkg: installing" in host.wait_gate("blockers")["reason"]
        host.agent.say(inhibitors={})
        host.wait_log("people-told")
        assert host.holders() == {}
        wait_for(host.agent.reboots.exists, "reboot by logind", host.agent.process)
        assert "version 1.1.0 waits for the reboot. Save your work" in told.read_text()
        assert "reboots now" in (host.agent.reboots.parent / "logind-wall").read_text()


def test_host_waits_for_its_turn_and_a_human_does_not(tmp_path: Path) -> None:
    """A host that waited for the window begins at its own place in it; `lockctl reboot` goes at once."""
    now = datetime.now(UTC)
    day = f'[[window]]\nstart = "{now:%H:%M}"\nduration_secs = 72000\n'
    with LockdHost(tmp_path / "a", "host-a", f"min_remaining_secs = 0\nspread_secs = 36000\n{LOCAL}{day}") as host:
        (host.root / "state").mkdir()
        (host.root / "state/waiting.json").write_text(f'{{"since": "{now - timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"}}')
        host.need_reboot("1.1.0")
        host.start()
        gate = host.wait_gate("window")
        assert "this host's turn" in gate["reason"]
        assert gate["ends_at"] is not None
        assert host.lockctl("reboot").returncode == 0
        host.wait_reboot()
