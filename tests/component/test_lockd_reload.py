"""Settings that change under a daemon that runs are taken up, or told as wrong; nothing reboots on wrong ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.etcd import Etcd, MutualEtcd
from tests.support.lockd_host import LockdHost
from tests.support.processes import DEADLINE_SECS, run_tool, tool, wait_for

LOCAL = 'strategy = "local"\nspread_secs = 0\nmin_remaining_secs = 0\n'


def window(opens: datetime) -> str:
    return f'[[window]]\nstart = "{opens:%H:%M}"\nduration_secs = 3600\n'


def closed() -> str:
    return window(datetime.now(UTC) + timedelta(hours=3))


def rewrite(host: LockdHost, before: str, after: str) -> None:
    """Change the policy file in one rename, as editors and configuration management do."""
    path = host.root / "lockd.toml"
    text = path.read_text()
    assert before in text
    beside = path.with_suffix(".new")
    beside.write_text(text.replace(before, after))
    beside.replace(path)


def test_reload_puts_a_changed_policy_in_force(tmp_path: Path) -> None:
    """A window that is taken out of the file lets the reboot through after `lockctl reload`, by the same daemon."""
    policy = closed()
    with LockdHost(tmp_path / "a", "host-a", LOCAL + policy) as host:
        host.start()
        host.need_reboot("1.1.0")
        host.wait_gate("window")
        process = host.lockd
        rewrite(host, policy, "")
        done = host.lockctl("reload")
        assert done.returncode == 0, done.stderr
        host.wait_reboot()
        assert host.lockd is process
        assert process is not None
        assert process.child.poll() is None


def test_changed_file_is_noticed_at_the_next_look(tmp_path: Path) -> None:
    """Nobody has to say that a file changed: a blackout that was just written holds at the next look."""
    policy = closed()
    with LockdHost(tmp_path / "a", "host-a", LOCAL + policy) as host:
        host.start()
        host.need_reboot("1.1.0")
        host.wait_gate("window")
        rewrite(host, 'strategy = "local"', 'strategy = "off"')
        host.agent.say()
        assert "never reboots" in host.wait_gate("strategy")["reason"]


def test_new_drop_in_is_noticed(tmp_path: Path) -> None:
    """A drop-in that comes into being below conf.d is a change as well."""
    with LockdHost(tmp_path / "a", "host-a", LOCAL + closed()) as host:
        host.start()
        host.need_reboot("1.1.0")
        host.wait_gate("window")
        (host.root / "conf.d").mkdir()
        (host.root / "conf.d" / "50-off.toml").write_text('strategy = "off"\n')
        host.agent.say()
        host.wait_gate("strategy")


@pytest.mark.parametrize("how", ["lockctl", "signal", "unasked"])
def test_wrong_policy_stops_reboots_and_is_told(tmp_path: Path, how: str) -> None:
    """A slip in a changed file: the daemon lives, no window of before is heeded any more, and everybody is told why."""
    with LockdHost(tmp_path / "a", "host-a", LOCAL + window(datetime.now(UTC) - timedelta(minutes=5))) as host:
        (host.root / "hold").touch()
        host.start()
        host.need_reboot("1.1.0")
        host.wait_gate("blockers")
        rewrite(host, "[[window]]", "[[windows]]")
        assert host.lockd is not None
        if how == "lockctl":
            done = host.lockctl("reload")
            assert done.returncode == 1
            assert "unknown setting windows" in done.stderr
        elif how == "signal":
            os.kill(host.lockd.child.pid, signal.SIGHUP)
        (host.root / "hold").unlink()
        host.agent.say()
        reason = wait_for(
            lambda: (gate := host.wait_gate("strategy")) and "unknown setting" in gate["reason"] and gate["reason"],
            "the slip", host.lockd,
        )  # fmt: skip
        assert "the settings are wrong" in reason
        host.wait_log("settings-wrong")
        assert not host.reboot_file.exists()
        rewrite(host, "[[windows]]", "[[window]]")
        host.agent.say()
        host.wait_reboot()


def test_windows_are_those_in_force(tmp_path: Path) -> None:
    """What lockd tells everybody about windows is what it goes by: before a reload, after it, and with a slip."""
    opens = datetime.now(UTC) + timedelta(hours=3)
    with LockdHost(tmp_path / "a", "host-a", LOCAL + window(opens)) as host:
        host.start()

        def told() -> dict[str, object]:
            env = {"LOCKD_BUS_ADDRESS": host.env["LOCKD_BUS_ADDRESS"]}
            done = run_tool("lockctl", "windows", "--json", env=env)
            assert done.returncode == 0, done.stderr
            return dict(json.loads(done.stdout))

        assert told()["next_open"] == f"{opens:%Y-%m-%dT%H:%M:00Z}"
        rewrite(host, window(opens), "")
        host.lockctl("reload")
        wait_for(lambda: told()["open"], "no window any more")
        rewrite(host, "spread_secs", "spread_sces")
        rewrite(host, "min_remaining_secs = 0", 'strategy = "x"')
        assert told() == {"open": False, "since": None, "until": None, "next_open": None, "problem": told()["problem"]}


def test_place_in_the_old_group_is_left(etcd: Etcd, tmp_path: Path) -> None:
    """A host that is moved to another group while it waits leaves the queue of the first, and goes on in the second."""
    policy = f'strategy = "etcd"\nspread_secs = 0\n[etcd]\nendpoints = ["{etcd.endpoint}"]\nprefix = "/moved"\n'
    with LockdHost(tmp_path / "a", "host-a", policy) as host:
        host.start()
        assert host.lockctl("lock", "other").returncode == 0
        host.need_reboot("1.1.0")
        host.wait_gate("ticket")
        rewrite(host, 'group = "web"', 'group = "db"')
        assert host.lockctl("reload").returncode == 0
        host.wait_reboot()
        assert host.holders() == {"host-a": "rebooting"}
        rewrite(host, 'group = "db"', 'group = "web"')
        group = host.group()
        assert ([one["id"] for one in group["holders"]], group["waiting"]) == (["other"], [])


def test_bus_address_needs_a_restart(tmp_path: Path) -> None:
    """What a running daemon can't take up is told as such, and nothing reboots until then."""
    with LockdHost(tmp_path / "a", "host-a", LOCAL) as host:
        host.start()
        rewrite(host, "boot_id_file", "#boot_id_file")
        host.agent.say()
        host.wait_log("settings-wrong")
        assert "systemctl restart lockd" in host.wait_log("settings-wrong")


def test_wrong_settings_at_the_start_have_an_exit_code_of_their_own(tmp_path: Path) -> None:
    """A daemon whose settings are wrong ends with 78, which its unit doesn't start again; a missing bus doesn't."""
    (tmp_path / "lockd.toml").write_text('strategy = "etc"\n')
    env = {**os.environ, "LOCKD_CONFIG": str(tmp_path / "lockd.toml"), "LOCKD_BUS_ADDRESS": "unix:path=/nowhere"}

    def end() -> int:
        return subprocess.run(
            tool("lockd"), env=env, capture_output=True, timeout=DEADLINE_SECS, check=False
        ).returncode

    assert end() == 78
    (tmp_path / "lockd.toml").write_text(f'strategy = "local"\nstate_dir = "{tmp_path}"\nmachine_id = "m"\n')
    assert end() == 4


def test_renewed_certificate_is_taken_up(tmp_path: Path) -> None:
    """A client certificate that etcd doesn't accept is replaced on the disk: lockd goes on, without a restart."""
    right, wrong = Authority(tmp_path / "right"), Authority(tmp_path / "wrong")
    good, bad = right.issue("host"), wrong.issue("host")
    with MutualEtcd(tmp_path / "etcd", right) as etcd:
        current = tmp_path / "host.pem", tmp_path / "host.key"
        for target, source in zip(current, (bad.cert, bad.key), strict=True):
            target.write_bytes(source.read_bytes())
        files = f'ca_file = "{right.ca}"\ncert_file = "{current[0]}"\nkey_file = "{current[1]}"\n'
        policy = f'strategy = "etcd"\nspread_secs = 0\n[etcd]\nendpoints = ["{etcd.endpoint}"]\n{files}'
        with LockdHost(tmp_path / "a", "host-a", policy) as host:
            host.start()
            host.need_reboot("1.1.0")
            host.wait_gate("ticket")
            for target, source in zip(current, (good.cert, good.key), strict=True):
                target.with_suffix(".new").write_bytes(source.read_bytes())
                target.with_suffix(".new").replace(target)
            host.agent.say()
            host.wait_reboot()
            assert host.holders() == {"host-a": "rebooting"}
