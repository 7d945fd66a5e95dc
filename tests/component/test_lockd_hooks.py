"""The administrator's programs, really run: folders, deadlines, environment, and what a failure means."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from lockd.drain import Drain
from lockd.errors import ErrorCode, RefusedError
from lockd.hooks import programs, run_program
from lockd.local_settings import HookSettings
from updated.common.process import run


def script(folder: Path, name: str, text: str, mode: int = 0o755) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def drain(tmp_path: Path, boot: str = "boot-1", **settings: object) -> Drain:
    return Drain(HookSettings(dirs=(tmp_path / "etc",), **settings), tmp_path / "drained.json", boot)  # type: ignore[arg-type]


ENV = {"LOCKD_GROUP": "web", "LOCKD_VERSION_FROM": "1.0", "LOCKD_VERSION_TO": "2.0", "LOCKD_SLOT": "a"}


def test_higher_folders_hide_and_mask(tmp_path: Path) -> None:
    """Names run in order; /etc hides the vendor's file of that name, and a link to /dev/null masks it."""
    vendor, admin = tmp_path / "usr", tmp_path / "etc"
    for name in ("10-a", "20-b", "30-c", "40-d~", ".hidden"):
        script(vendor, name, "true")
    own = script(admin, "20-b", "true")
    (admin / "30-c").symlink_to("/dev/null")
    assert programs([admin, vendor]) == [vendor / "10-a", own]


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        ("exit 0", 0o755, ""),
        ("echo first; echo second; exit 3", 0o755, "ended with 3"),
        ("exit 0", 0o644, "isn't executable"),
        ("exit 0", 0o757, "changed by everybody"),
        ("kill -9 $$", 0o755, "ended with -9"),
        ("sleep 60", 0o755, "took over 0.5 s"),
    ],
)
async def test_only_a_clean_end_counts(tmp_path: Path, text: str, mode: int, problem: str) -> None:
    """A program that fails, can't be run or takes too long is told, with its first words."""
    outcome = await run_program(script(tmp_path, "x", text, mode), timeout_secs=0.5 if "sleep" in text else 30, env={})
    assert problem in outcome.problem
    assert bool(outcome.problem) == bool(problem)
    assert outcome.words == ("first" if "first" in text else "")


async def test_text_that_cannot_be_passed_on_is_a_failed_result(tmp_path: Path) -> None:
    """A version with a null character in it is told as a hook that can't be started; nothing is raised."""
    outcome = await run_program(script(tmp_path, "x", "exit 0"), timeout_secs=30, env={"LOCKD_VERSION_TO": "1\0"})
    assert "can't be started: an argument or its environment" in outcome.problem


def test_folders_that_are_lost_are_no_empty_folders(tmp_path: Path) -> None:
    """A link that leads nowhere, a file, and a configured directory that isn't there: none counts as "no programs"."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert programs([tmp_path / "pre-reboot.d", Path("/run/lockd/nothing.d")]) == []
    for folder in (tmp_path / "link", tmp_path / "file", tmp_path / "missing/pre-reboot.d"):
        with pytest.raises(OSError, match=r"directory"):
            programs([tmp_path / "pre-reboot.d", folder])


async def test_hooks_are_told_the_facts_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook sees event, group, versions and slot, and not the daemon's own environment."""
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "x")
    script(tmp_path / "etc/pre-reboot.d", "10-env", f"env > {tmp_path}/env")
    await drain(tmp_path).before(ENV)
    seen = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert {name: seen.get(name) for name in ENV} == ENV
    assert seen["LOCKD_EVENT"] == "pre-reboot"
    assert "SECRET_OF_THE_DAEMON" not in seen


async def test_failing_drain_stops_and_brings_back(tmp_path: Path) -> None:
    """The first failure ends the drain, what was drained is brought back, and the error names the hook."""
    log = tmp_path / "log"
    script(tmp_path / "etc/pre-reboot.d", "10-ok", f"echo drained >> {log}")
    script(tmp_path / "etc/pre-reboot.d", "20-bad", "echo pods stay >&2; exit 1")
    script(tmp_path / "etc/pre-reboot.d", "30-never", f"echo never >> {log}")
    script(tmp_path / "etc/post-boot.d", "10-back", f"echo $LOCKD_EVENT >> {log}")
    made = drain(tmp_path)
    with pytest.raises(RefusedError, match="20-bad ended with 1: pods stay") as caught:
        await made.before(ENV)
    assert caught.value.code is ErrorCode.DRAIN_FAILED
    assert log.read_text().split() == ["drained", "cancelled"]
    assert not made.drained


async def test_policy_may_reboot_all_the_same(tmp_path: Path) -> None:
    """With `ignore` every hook runs, and a failure stops nothing."""
    script(tmp_path / "etc/pre-reboot.d", "10-bad", "exit 1")
    script(tmp_path / "etc/pre-reboot.d", "20-ok", f"touch {tmp_path}/ran")
    made = drain(tmp_path, on_pre_reboot_failure="ignore")
    await made.before(ENV)
    assert made.drained
    assert (tmp_path / "ran").exists()


async def test_next_boot_finishes_what_was_begun(tmp_path: Path) -> None:
    """After the reboot post-boot.d runs once, with the versions of the reboot; until it works, it is run again."""
    log = tmp_path / "log"
    hook = script(tmp_path / "etc/post-boot.d", "10-back", "exit 0")
    await drain(tmp_path).before(ENV)
    assert drain(tmp_path).drained  # a restart of the daemon in the same boot
    assert hook == script(
        tmp_path / "etc/post-boot.d",
        "10-back",
        f"echo $LOCKD_VERSION_FROM $LOCKD_VERSION_TO >> {log}; test -e {log}.ok",
    )
    after = drain(tmp_path, "boot-2")
    assert "10-back ended with 1" in await after.after({"LOCKD_VERSION_FROM": "2.0", "LOCKD_VERSION_TO": ""})
    Path(f"{log}.ok").touch()
    assert await after.after({}) == ""
    assert await after.after({}) == ""
    assert log.read_text() == "1.0 2.0\n1.0 2.0\n"
    assert not drain(tmp_path, "boot-3").came_back


async def test_program_that_is_cancelled_while_it_starts_leaves_nothing() -> None:
    """At whatever turn of the loop it is cut: no descriptor stays open, and nothing that it started lives on."""
    mark = f"61.{os.getpid()}"
    before = len(list(Path("/proc/self/fd").iterdir()))
    for turns in range(40):
        running = asyncio.ensure_future(run(["sh", "-c", f"sleep {mark}; true"], timeout_secs=60))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    async with asyncio.timeout(20):
        while sleepers(mark):
            await asyncio.sleep(0.01)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def sleepers(mark: str) -> list[str]:
    """Return the processes that sleep for so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == f"sleep\0{mark}\0".encode():
                found.append(path.parent.name)
    return found
