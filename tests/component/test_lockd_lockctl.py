"""lockctl as a command: what it prints, its exit codes, and what it does to the tickets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lockd.ctl.main import main
from tests.support.etcd import free_port
from tests.support.processes import run_tool

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def lockctl(tmp_path: Path) -> Run:
    config = tmp_path / "lockd.toml"
    config.write_text(
        f'strategy = "local"\nstate_dir = "{tmp_path}/state"\ngroup = "web"\nmachine_id = "me"\n'
        '[[window]]\nstart = "03:00"\nduration_secs = 3600\ntimezone = "Europe/Berlin"\ndays = ["Sat"]\n'
    )

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run_tool("lockctl", *arguments, env={"LOCKD_CONFIG": str(config), **env})

    return run


def test_operators_day(lockctl: Run) -> None:
    """set-max, lock, status, machines, pause, resume, unlock: each does what it says and shows it."""
    assert lockctl("set-max", "2").stdout == "max of group web: 2 (was 1)\n"
    assert lockctl("lock").returncode == 0
    assert lockctl("lock", "other").returncode == 0
    refused = lockctl("lock", "third")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "no slot is free: at most 2, held by me, other, 0 in the queue [semaphore-full]" in refused.stderr
    group = json.loads(lockctl("pause", "--reason", "network works", "--json").stdout)
    assert group["paused"]["reason"] == "network works"
    assert (group["max"], group["available"]) == (2, 0)
    lines = lockctl("status").stdout
    assert "network works" in lines
    assert "me" in lines
    assert [one["id"] for one in json.loads(lockctl("machines", "--json").stdout)] == ["me", "other"]
    assert lockctl("resume").stdout == "Group web goes on.\n"
    assert lockctl("unlock").returncode == 0
    assert lockctl("unlock", "other").returncode == 0
    assert lockctl("unlock", "other").returncode == 3
    assert lockctl("machines").stdout == "No machine is known, holds or waits.\n"


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (
            "2026-05-08T12:00:00Z",
            {"open": False, "since": "2026-05-02T02:00:00Z", "until": "2026-05-09T01:00:00Z",
             "next_open": "2026-05-09T01:00:00Z"},
        ),
        (
            "2026-05-09T03:30:00+02:00",
            {"open": True, "since": "2026-05-09T01:00:00Z", "until": "2026-05-09T02:00:00Z",
             "next_open": "2026-05-16T01:00:00Z"},
        ),
    ],
)  # fmt: skip
def test_windows_answers_for_any_moment(lockctl: Run, at: str, expected: dict[str, object]) -> None:
    """`windows --at` says whether a window is open then, since when, until when, and when the next one opens."""
    assert json.loads(lockctl("windows", "--at", at, "--json").stdout) == expected


def test_windows_lists_the_next_ones(lockctl: Run) -> None:
    """`windows --next 2` lists two, for people and for scripts."""
    at = "2026-05-08T12:00:00Z"
    assert "2026-05-16T01:00:00Z" in lockctl("windows", "--next", "2", "--at", at).stdout
    listed = json.loads(lockctl("windows", "--next", "2", "--at", at, "--json").stdout)["next"]
    assert [one["start"] for one in listed] == ["2026-05-09T01:00:00Z", "2026-05-16T01:00:00Z"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["set-max"],
        ["set-max", "0"],
        ["set-max", "1001"],
        ["set-max", "many"],
        ["set-max", "0%"],
        ["set-max", "101%"],
        ["set-max", "%"],
        ["set-max", "1_0"],
        ["set-max", "\u0663"],
        ["set-policy"],
        ["set-policy", "--overdue", "0"],
        ["set-policy", "--overdue", "never"],
        ["set-policy", "--min-interval-secs", "-1"],
        ["set-max", "--", "-2"],
        ["lock", "a/b"],
        ["unlock", "x" * 65],
        ["windows", "--next", "-1"],
        ["windows", "--next", "1.5"],
        ["windows", "--at", "yesterday"],
        ["windows", "--at", "2026-02-30T00:00:00Z"],
        ["windows", "--at", "0001-01-01T00:00:00+23:00"],
        ["windows", "--at", "9999-12-31T23:59:59-23:00"],
        ["windows", "--at", "2026-05-08T12:00:00"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A wrong argument is told on stderr, and nothing is done."""
    monkeypatch.setattr("sys.argv", ["lockctl", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "lockctl" in said.err
    assert "invalid _" not in said.err, "a function of ours is named instead of what is wrong"


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:99999", "http://127.0.0.1:-1", "http://127.0.0.1:", "http://127.0.0.1:x", "127.0.0.1:2379",
     "http://[::1", "http://:2379", "http://10.0.0.1:2379/v3", "http://a b:1", "http://a:1?x"],
)  # fmt: skip
def test_endpoint_that_cant_be_one_is_a_sentence(lockctl: Run, tmp_path: Path, endpoint: str) -> None:
    """A slip in an address is told with the address, before anything is sent, and never as a traceback."""
    config = tmp_path / "etcd.toml"
    config.write_text('strategy = "etcd"\n')
    done = lockctl("status", LOCKD_ENDPOINTS=endpoint, LOCKD_CONFIG=str(config))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: etcd.endpoints: ")
    assert endpoint in done.stderr
    assert "[config]\nwhat to do: " in done.stderr


def test_setting_that_nothing_knows_is_told(lockctl: Run, tmp_path: Path) -> None:
    """A misspelt setting may be a restriction that isn't heeded: a file that is tried has no window then."""
    config = tmp_path / "slip.toml"
    config.write_text("min_remaning_secs = 5\n")
    done = lockctl("windows", "--config", str(config))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: nothing knows the setting min_remaning_secs in {config} [config]\n")


def test_file_that_is_nested_too_deep_is_a_sentence(lockctl: Run, tmp_path: Path) -> None:
    """Whatever a file holds, the answer is a sentence."""
    config = tmp_path / "deep.toml"
    config.write_text("a = " + "[" * 100_000)
    done = lockctl("windows", "--config", str(config))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {config} is not TOML")


@pytest.mark.parametrize("command", ["explain", "reboot", "reload"])
def test_missing_daemon_is_exit_code_4(lockctl: Run, tmp_path: Path, command: str) -> None:
    """Without a bus or a daemon the command says that it can't reach it."""
    done = lockctl(command, LOCKD_BUS_ADDRESS=f"unix:path={tmp_path}/no-bus")
    assert done.returncode == 4
    assert "[unreachable]" in done.stderr


def test_explain_without_the_daemon_tells_what_can_be_told(lockctl: Run, tmp_path: Path) -> None:
    """The chain begins with the daemon that isn't there; strategy, window and hold file are told from here."""
    done = lockctl("explain", "--json", LOCKD_BUS_ADDRESS=f"unix:path={tmp_path}/no-bus")
    chain = {gate["gate"]: gate for gate in json.loads(done.stdout)}
    assert list(chain) == ["daemon", "need", "strategy", "blockers", "window", "ticket"]
    assert (chain["daemon"]["state"], chain["strategy"]["state"]) == ("closed", "open")
    assert chain["need"]["state"] == chain["ticket"]["state"] == "not-asked"
    assert "systemctl status lockd" in chain["daemon"]["ends"]
    assert chain["window"]["state"] in ("open", "closed")


def test_explain_of_wrong_settings_names_the_slip(tmp_path: Path) -> None:
    """A policy that keeps the daemon from starting is what `lockctl explain` tells then."""
    (tmp_path / "lockd.toml").write_text("strategy = 'etc'\n")
    env = {"LOCKD_CONFIG": str(tmp_path / "lockd.toml"), "LOCKD_BUS_ADDRESS": f"unix:path={tmp_path}/no-bus"}
    done = run_tool("lockctl", "explain", "--json", env=env)
    (gate,) = json.loads(done.stdout)
    assert (done.returncode, gate["gate"], gate["state"]) == (1, "settings", "closed")
    assert "strategy must be one of" in gate["reason"]


def test_unreachable_etcd_is_exit_code_4(tmp_path: Path) -> None:
    """Settings may come from the environment alone; an etcd that nobody runs can't be reached."""
    env = {
        "LOCKD_CONFIG": "/dev/null",
        "LOCKD_ENDPOINTS": f"http://127.0.0.1:{free_port()}",
        "LOCKD_GROUP": "g",
        "LOCKD_MACHINE_ID": "m",
    }
    done = run_tool("lockctl", "status", env=env)
    assert done.returncode == 4
    assert "[etcd-unreachable]" in done.stderr


def test_strategy_without_tickets_is_refused(lockctl: Run, tmp_path: Path) -> None:
    """Under strategy reboot there is no semaphore to show."""
    (tmp_path / "lockd.toml").write_text('strategy = "reboot"\nmachine_id = "me"')
    done = lockctl("status")
    assert done.returncode == 3
    assert "strategy reboot has no tickets [no-tickets]" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "windows",
        "lock",
        "unlock",
        "set-max",
        "set-policy",
        "pause",
        "resume",
        "machines",
        "reboot",
        "explain",
    ],
)
def test_help_shows_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Every command's help has an example."""
    monkeypatch.setattr("sys.argv", ["lockctl", command, "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert f"example: lockctl {command}" in capsys.readouterr().out
