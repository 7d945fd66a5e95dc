"""Durable files, layered settings, typed settings, notifications, processes, tables."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from updated.common import cli, durable, notify, process
from updated.common.schema import fill, flatten
from updated.common.settings import Layers, SettingsError, load_layers, read_key_values


@dataclass(frozen=True)
class Inner:
    """A table."""

    name: str = "x"
    limit_secs: float = 1.5


@dataclass(frozen=True)
class Outer:
    """Settings of a test."""

    inner: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    path: Path | None = None
    count: int = 3
    flag: bool = False
    windows: tuple[Inner, ...] = ()


def layers(**values: object) -> Layers:
    made = Layers()
    made.put(values, "test.toml")
    return made


def test_write_atomic_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """A replaced file has the new content and mode, and no temporary file stays."""
    path = tmp_path / "file"
    durable.write_atomic(path, b"old")
    durable.write_atomic(path, b"new", 0o644)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert list(tmp_path.iterdir()) == [path]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED HERE: only root can give files away")
def test_file_that_root_writes_belongs_to_the_directorys_owner(tmp_path: Path) -> None:
    """What an operator's command writes into a daemon's directory stays readable to the daemon."""
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 65534, 65534)
    durable.write_atomic(tmp_path / "state/file", b"data")
    assert (tmp_path / "state/file").stat().st_uid == 65534


def test_write_atomic_that_fails_keeps_the_old_content(tmp_path: Path) -> None:
    """When the rename can't happen the old content is still there and nothing lies beside."""
    path = tmp_path / "directory"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        durable.write_atomic(path, b"data")
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_cut_left_beside_a_file_goes_with_the_next_write(tmp_path: Path) -> None:
    """Unfinished files of processes that are gone don't pile up; a living writer's and others' files stay."""
    gone, alive, other = (tmp_path / f".{name}.tmp" for name in ("file.4194305", "file.1", "other.4194305"))
    for left in (gone, alive, other):
        left.write_bytes(b"half")
    durable.write_atomic(tmp_path / "file", b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["file", alive.name, other.name])


def test_read_bounded_refuses_what_is_longer(tmp_path: Path) -> None:
    """A file over the limit is an error, not a cut value."""
    (tmp_path / "file").write_bytes(b"12345")
    assert durable.read_bounded(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="longer"):
        durable.read_bounded(tmp_path / "file", 4)


def test_layers_follow_systemds_precedence(tmp_path: Path) -> None:
    """/etc beats /run beats /usr/lib; drop-ins beat the main file; one name hides the same name below."""
    roots = [tmp_path / name for name in ("etc", "run", "usr")]
    for root in roots:
        (root / "agent/conf.d").mkdir(parents=True)
    usr, run, etc = roots[2] / "agent", roots[1] / "agent", roots[0] / "agent"
    (usr / "agent.toml").write_text("a = 1\nb = 1\nc = 1\n[t]\nx = 1\ny = 1\n")
    (usr / "conf.d/10-x.toml").write_text("b = 2\nhidden = 1")
    (etc / "conf.d/10-x.toml").write_text("b = 3")
    (run / "conf.d/20-y.toml").write_text("c = 4\n[t]\ny = 2\n")
    found = load_layers("agent", None, roots)
    assert found.values == {"a": 1, "b": 3, "c": 4, "t.x": 1, "t.y": 2}
    assert found.origin["b"] == str(etc / "conf.d/10-x.toml")


def test_masked_drop_in_counts_as_empty(tmp_path: Path) -> None:
    """A link to /dev/null in /etc takes a vendor's drop-in away."""
    roots = [tmp_path / name for name in ("etc", "usr")]
    for root in roots:
        (root / "agent/conf.d").mkdir(parents=True)
    (roots[1] / "agent/conf.d/10-x.toml").write_text("a = 1")
    (roots[0] / "agent/conf.d/10-x.toml").symlink_to("/dev/null")
    assert load_layers("agent", None, roots).values == {}


def test_malformed_file_is_named(tmp_path: Path) -> None:
    """An error in a file says which file."""
    (tmp_path / "agent.toml").write_text("a = ")
    with pytest.raises(SettingsError, match=r"agent\.toml is not TOML"):
        load_layers("agent", tmp_path / "agent.toml")


def test_key_value_files_are_read_as_update_conf_has_them(tmp_path: Path) -> None:
    """Comments are skipped, one pair of quotes is removed, the last of two wins."""
    (tmp_path / "update.conf").write_text("#GROUP=no\nGROUP=stable\nSERVER='https://x'\nGROUP=\"beta\"\nnonsense\n")
    assert read_key_values(tmp_path / "update.conf") == {"GROUP": "beta", "SERVER": "https://x"}


def test_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    """An editor's byte order mark doesn't hide the first line."""
    (tmp_path / "update.conf").write_bytes(b"\xef\xbb\xbfGROUP=stable\n")
    assert read_key_values(tmp_path / "update.conf") == {"GROUP": "stable"}


@pytest.mark.parametrize("name", ["etc/agent/agent.toml", "etc/agent/conf.d", "etc/agent"])
def test_link_that_leads_nowhere_is_an_error(tmp_path: Path, name: str) -> None:
    """A link whose settings are gone isn't "no settings", wherever on the way it is."""
    (tmp_path / "etc/agent").mkdir(parents=True)
    if name == "etc/agent":
        (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="can't be"):
        load_layers("agent", None, [tmp_path / "etc", tmp_path / "usr"])


def test_schema_fills_every_kind_of_value() -> None:
    """Strings, numbers, paths, lists, lists of tables and nested tables find their fields."""
    found, unknown = fill(
        Outer,
        layers(
            inner={"name": "y", "limit_secs": 2},
            names=["a"],
            commands=[["x", "y"]],
            path="/p",
            count=0,
            flag=True,
            windows=[{"name": "w"}],
            other=1,
        ),
    )
    expected = Outer(Inner("y", 2.0), ("a",), (("x", "y"),), Path("/p"), 0, flag=True, windows=(Inner("w"),))
    assert (found, unknown) == (expected, ("other",))
    assert flatten(found)["inner.limit_secs"] == 2.0


@pytest.mark.parametrize(
    "values",
    [
        {"count": "3"}, {"count": True}, {"count": 1.5}, {"count": -1}, {"flag": 1}, {"names": "a"}, {"names": [1]},
        {"inner": {"limit_secs": float("nan")}}, {"inner": {"limit_secs": float("inf")}}, {"path": ""}, {"path": 1},
        {"windows": [{"nam": "w"}]}, {"commands": [["x", 1]]}, {"count": 10**400}, {"inner": {"limit_secs": 10**400}},
        {"inner": {"limit_secs": 1e9}}, {"windows": [{"limit_secs": 10**10}]},
    ],
)  # fmt: skip
def test_schema_names_the_key_of_a_wrong_value(values: dict[str, object]) -> None:
    """A wrong type, an infinite or negative number, an unknown key in a list of tables: never guessed at."""
    with pytest.raises(SettingsError, match=r"in test\.toml"):
        fill(Outer, layers(**values))


def test_notifications_reach_systemds_socket(tmp_path: Path) -> None:
    """READY, WATCHDOG and STATUS arrive as datagrams, and no socket means silence."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        told = notify.from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"})
        told.ready()
        told.watchdog()
        told.status("two\nlines")
        assert [server.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STATUS=two lines"]
    assert told.watchdog_secs == 2.0
    notify.from_environment({}).ready()


def test_notifications_to_a_socket_that_is_gone_end_nothing(tmp_path: Path) -> None:
    """A service manager that doesn't listen any more stops no work."""
    notify.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")}).watchdog()


async def test_process_reports_exit_code_and_output() -> None:
    """What a program printed and how it ended come back."""
    done = await process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_secs=30)
    assert (done.returncode, done.stdout, done.stderr, done.timed_out) == (3, "out\n", "err\n", False)


async def test_process_at_its_deadline_is_ended_with_its_children(tmp_path: Path) -> None:
    """A program that hangs is ended, and so is what it started."""
    script = f"sleep 300 & echo $! > {tmp_path}/child; wait"
    done = await process.run(["sh", "-c", script], timeout_secs=0.5)
    assert done.timed_out
    child = int((tmp_path / "child").read_text())
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]


async def test_process_that_left_its_session_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child in a session of its own that keeps the output open holds nobody up; what was said is kept."""
    monkeypatch.setattr(process, "GRACE_SECS", 0.1)
    script = f"echo said; setsid sleep 300 & echo $! > {tmp_path}/child; exit 0"
    async with asyncio.timeout(30):
        done = await process.run(["sh", "-c", script], timeout_secs=0.5)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert (done.timed_out, done.stdout, done.returncode) == (True, "said\n", 0)


@pytest.mark.parametrize(("argument", "value"), [("\0", ""), ("\ud800", ""), ("", "\0"), ("", "\ud800")])
async def test_what_no_program_can_be_given_is_an_error_like_others(argument: str, value: str) -> None:
    """A null character or half a surrogate pair means that the program can't be started."""
    with pytest.raises(OSError, match="no program can be given"):
        await process.run(["true", argument], timeout_secs=30, env={"PATH": os.environ["PATH"], "X": value})


async def test_process_output_is_bounded() -> None:
    """A program that talks without end costs no memory."""
    done = await process.run(["sh", "-c", "head -c 1000000 /dev/zero"], timeout_secs=30)
    assert len(done.stdout) == process.OUTPUT_LIMIT


def test_table_aligns_columns() -> None:
    """Columns are as wide as their widest cell and lines have no trailing space."""
    assert cli.table([("a", "b"), ("long", "c")], ("H", "I")) == "H     I\na     b\nlong  c"


def test_bytes_for_people() -> None:
    """Sizes are written with binary units."""
    assert [cli.human_bytes(n) for n in (0, 1023, 1024, 1536, 5 * 1024**3)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB",
    ]  # fmt: skip


async def test_who_waits_for_a_program_shows_to_be_alive(tmp_path: Path) -> None:
    """`alive` is called while the program runs: this one ends only because it was."""
    flag, calls = tmp_path / "alive", 0

    def alive() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            flag.touch()

    done = await process.run(["sh", "-c", f"while ! [ -e {flag} ]; do sleep 0.05; done"], timeout_secs=60, alive=alive)
    assert (done.returncode, done.timed_out) == (0, False)
