"""lockd as a process, on a real bus, with tickets in a real etcd: the way to a reboot and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.etcd import Etcd
from tests.support.lockd_host import LockdHost
from tests.support.processes import wait_for


def policy(etcd: Etcd, prefix: str, more: str = "") -> str:
    tables = f'[etcd]\nendpoints = ["{etcd.endpoint}"]\nprefix = "/{prefix}"\nrequest_timeout_secs = 1\n{more}'
    return f'strategy = "etcd"\nmin_remaining_secs = 0\n{tables}'


def window(start: datetime, secs: int) -> str:
    return f'[[window]]\nstart = "{start:%H:%M}"\nduration_secs = {secs}\n'


def test_ticket_is_released_after_a_healthy_boot_only(etcd: Etcd, tmp_path: Path) -> None:
    """A slot is taken for the reboot and given back when the boot changed and the agent confirmed it, not before."""
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "healthy")) as host:
        host.start()
        host.need_reboot("1.1.0")
        host.wait_reboot()
        assert host.holders() == {"host-a": "rebooting"}
        host.power_cycle(boot_confirmed=False)
        assert "isn't confirmed" in host.wait_gate("release")["reason"]
        assert host.holders() == {"host-a": "rebooting"}
        host.agent.say(boot_confirmed=True)
        host.wait_log("ticket-released")
        assert host.holders() == {}
        assert not host.reboot_file.exists()


def test_restarted_daemon_in_the_same_boot_releases_nothing(etcd: Etcd, tmp_path: Path) -> None:
    """A restart of lockd while the machine is on its way down doesn't give the slot to somebody else."""
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "restart")) as host:
        host.start()
        host.need_reboot("1.1.0")
        host.wait_reboot()
        host.stop()
        host.start()
        assert host.wait_gate("ticket", "open")["reason"] == "this host has the slot"
        assert host.holders() == {"host-a": "rebooting"}


def test_second_host_waits_for_the_first(etcd: Etcd, tmp_path: Path) -> None:
    """With max 1 the second host reboots only after the first is back and healthy."""
    with (
        LockdHost(tmp_path / "a", "host-a", policy(etcd, "two")) as first,
        LockdHost(tmp_path / "b", "host-b", policy(etcd, "two")) as second,
    ):
        first.start()
        second.start()
        first.need_reboot("1.1.0")
        first.wait_reboot()
        second.need_reboot("1.1.0")
        gate = second.wait_gate("ticket")
        assert "host-a (rebooting)" in gate["reason"]
        assert not second.reboot_file.exists()
        first.power_cycle()
        first.wait_log("ticket-released")
        second.wait_reboot()
        assert second.holders() == {"host-b": "rebooting"}


def test_rolled_back_host_keeps_its_slot_and_pauses_the_group(etcd: Etcd, tmp_path: Path) -> None:
    """A host that came back with the old version holds the rollout up, says why, and goes on when told to."""
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "rollback")) as host:
        host.start()
        host.need_reboot("2.0.0")
        host.wait_reboot()
        host.power_cycle(boot_confirmed=True, rolled_back={"version": "2.0.0", "at": "2026-01-01T00:00:00Z"})
        host.wait_gate("release")
        group = host.group()
        assert {ticket["id"]: ticket["phase"] for ticket in group["holders"]} == {"host-a": "rolled-back"}
        assert "2.0.0 did not boot well" in group["paused"]["reason"]
        assert host.lockctl("lock", "host-z").returncode == 3
        assert host.lockctl("unlock", "host-a").returncode == 3  # it may be unwell: only with --force
        assert host.lockctl("unlock", "host-a", "--force").returncode == 0
        assert host.lockctl("resume").returncode == 0
        host.need_reboot("2.0.1")
        host.wait_reboot()
        assert host.holders() == {"host-a": "rebooting"}


def test_closed_window_holds_the_reboot_and_says_until_when(etcd: Etcd, tmp_path: Path) -> None:
    """Outside the window no ticket is taken and nothing reboots; explain names the moment when it opens."""
    opens = (datetime.now(UTC) + timedelta(hours=3)).replace(second=0, microsecond=0)
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "closed", window(opens, 3600))) as host:
        host.start()
        host.need_reboot("1.1.0")
        gate = host.wait_gate("window")
        assert gate["ends_at"] == f"{opens:%Y-%m-%dT%H:%M:%SZ}"
        assert [one["state"] for one in host.explain()] == ["open", "open", "open", "closed", "not-asked"]
        assert host.holders() == {}
        assert not host.reboot_file.exists()


def test_open_window_lets_the_reboot_through(etcd: Etcd, tmp_path: Path) -> None:
    """Inside the window the reboot goes ahead."""
    opened = datetime.now(UTC) - timedelta(hours=1)
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "open", window(opened, 7200))) as host:
        host.start()
        host.need_reboot("1.1.0")
        host.wait_reboot()


def test_hold_file_blocks_and_its_removal_lets_go(etcd: Etcd, tmp_path: Path) -> None:
    """While the hold file is there the host doesn't reboot, and explain shows what the file says."""
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "hold")) as host:
        (host.root / "hold").write_text("backup is running\n")
        host.start()
        host.need_reboot("1.1.0")
        assert "backup is running" in host.wait_gate("blockers")["reason"]
        assert host.holders() == {}
        (host.root / "hold").unlink()
        host.agent.say()  # any announcement makes it look again
        host.wait_reboot()


def test_unreachable_etcd_means_no_reboot(tmp_path: Path) -> None:
    """While etcd doesn't answer the host stays up and explain says so; afterwards it goes on by itself."""
    with Etcd(tmp_path / "etcd") as etcd, LockdHost(tmp_path / "a", "host-a", policy(etcd, "gone")) as host:
        host.start()
        etcd.pause()
        host.need_reboot("1.1.0")
        assert "etcd-unreachable" in host.wait_gate("ticket")["reason"]
        assert not host.reboot_file.exists()
        etcd.resume()
        host.wait_reboot()


def test_agent_that_tells_no_health_gets_no_slot(etcd: Etcd, tmp_path: Path) -> None:
    """A host whose health nobody can confirm takes no slot, for it would never give it back."""
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "legacy")) as host:
        host.agent.say(legacy=True)
        host.start()
        host.need_reboot("1.1.0")
        assert "doesn't tell whether this boot is healthy" in host.wait_gate("need")["reason"]
        assert host.holders() == {}


def test_reboot_goes_through_logind_when_no_command_is_set(tmp_path: Path) -> None:
    """Without reboot_command logind is asked, once, not interactively."""
    with LockdHost(tmp_path / "a", "host-a", 'strategy = "reboot"', logind=True) as host:
        host.start()
        host.need_reboot("1.1.0")
        wait_for(host.agent.reboots.exists, "reboot by logind", host.agent.process)
        assert json.loads(host.agent.reboots.read_text()) == [False]


def test_refused_reboot_gives_the_slot_back_and_says_why(etcd: Etcd, tmp_path: Path) -> None:
    """When logind refuses, explain says why and until when, others get the slot, and a person can have it tried now."""
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "refused"), logind=True) as host:
        host.agent.say(logind_refuses=True)
        host.start()
        host.need_reboot("1.1.0")
        gate = host.wait_gate("blockers")
        assert "polkit isn't on the bus" in gate["reason"]  # as it is here
        assert "lockctl reboot" in gate["ends"]
        assert gate["ends_at"] is not None
        wait_for(lambda: host.holders() == {}, "the slot given back")
        assert not host.agent.reboots.exists()
        host.agent.say(logind_refuses=False)
        assert host.lockctl("reboot").returncode == 0
        wait_for(host.agent.reboots.exists, "reboot by logind", host.agent.process)


def test_host_that_logind_would_not_reboot_takes_no_slot(etcd: Etcd, tmp_path: Path) -> None:
    """Where polkit has no rule for lockd, nothing is taken or drained; explain names polkit and what to do."""
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "no-rule"), logind=True) as host:
        host.agent.say(can_reboot="challenge")
        host.start()
        host.need_reboot("1.1.0")
        gate = host.wait_gate("blockers")
        assert "polkit has no rule" in gate["reason"]
        assert "50-lockd.rules" in gate["ends"]
        assert (host.holders(), host.group()["waiting"]) == ({}, [])
        assert not host.agent.reboots.exists()


def test_local_strategy_needs_no_server(tmp_path: Path) -> None:
    """With strategy local the ticket is in a file and the same steps hold."""
    with LockdHost(tmp_path / "a", "host-a", 'strategy = "local"') as host:
        host.start()
        host.need_reboot("1.1.0")
        host.wait_reboot()
        assert host.holders() == {"host-a": "rebooting"}
        host.power_cycle(boot_confirmed=True)
        host.wait_log("ticket-released")
        assert host.holders() == {}


def test_second_lockd_on_a_host_refuses_to_start(tmp_path: Path) -> None:
    """Two coordinators on one host: the second one leaves with the reason."""
    with LockdHost(tmp_path / "a", "host-a", 'strategy = "local"') as host:
        host.start()
        first = host.lockd
        other = host.run_second()
        assert other.returncode == 1
        assert "another process owns org.lockd.Lockd1" in other.stderr
        assert first is not None
        assert first.child.poll() is None


def test_human_reboot_walks_the_same_gates(etcd: Etcd, tmp_path: Path) -> None:
    """`lockctl reboot` is told of a closed gate with exit code 3, stands, and goes on when the gate opens."""
    with LockdHost(tmp_path / "a", "host-a", policy(etcd, "human")) as host:
        (host.root / "hold").write_text("")
        host.start()
        refused = host.lockctl("reboot")
        assert refused.returncode == 3, refused.stderr
        assert "(blockers)" in refused.stderr
        assert not host.reboot_file.exists()
        (host.root / "hold").unlink()
        done = host.lockctl("reboot")
        assert done.returncode == 0, done.stderr
        host.wait_reboot()
