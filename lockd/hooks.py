"""The administrator's programs: what is in a folder such as pre-reboot.d, run one after the other, each by a deadline.

A folder is put together as systemd does it: a file hides those of its name in the folders after it, and a link to
/dev/null (or an empty file) masks them. Names are run in order; hidden files and editors' leftovers are left out. A
file that can't be run isn't overlooked: it counts as one that failed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockd.local_settings import HOOK_DIRS
from updated.common.log import get_logger
from updated.common.ownership import writable_by_others
from updated.common.process import run

logger = get_logger("hooks")

WORDS_LIMIT = 300  # characters of a program's own words that are shown
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LEFTOVERS = ("~", ".bak", ".swp", ".dpkg-old", ".dpkg-dist", ".dpkg-new", ".rpmsave", ".rpmorig", ".rpmnew")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended; `problem` is empty when it said that all is well."""

    name: str
    problem: str = ""
    words: str = ""  # the first line that it printed


def programs(folders: Sequence[Path]) -> list[Path]:
    """Return what is to be run, the folder of the highest precedence first in `folders`.

    Raises:
        OSError: a folder is there and can't be listed, or the one of `hooks.dirs` that it is in isn't there.
    """
    chosen: dict[str, Path] = {}
    for folder in reversed(folders):
        if _is_there(folder):
            chosen.update({path.name: path for path in folder.iterdir() if _counts(path)})
    return [chosen[name] for name in sorted(chosen) if not _is_masked(chosen[name])]


async def run_program(path: Path, *, timeout_secs: float, env: Mapping[str, str]) -> Outcome:
    """Run one program to its end or its deadline; it never raises."""
    problem = _unfit(path)
    if problem:
        return Outcome(path.name, problem)
    clean = {"PATH": PATH, "LANG": "C.UTF-8", **_passed_on(), **env}
    try:
        done = await run([str(path)], timeout_secs=timeout_secs, env=clean)
    except OSError as error:
        return Outcome(path.name, f"can't be started: {error.strerror}")
    words = next((line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()), "")
    words = words[:WORDS_LIMIT]
    if done.timed_out:
        return Outcome(path.name, f"took over {timeout_secs:g} s", words)
    return Outcome(path.name, f"ended with {done.returncode}" if done.returncode else "", words)


async def run_all(
    folders: Sequence[Path], *, timeout_secs: float, env: Mapping[str, str], until_failure: bool
) -> list[Outcome]:
    """Run every program in order; with `until_failure` none after the first that failed."""
    outcomes: list[Outcome] = []
    try:
        paths = programs(folders)
    except OSError as error:
        return [Outcome(str(error.filename), f"can't be listed: {error.strerror}")]
    for path in paths:
        outcome = await run_program(path, timeout_secs=timeout_secs, env=env)
        tell = logger.warning if outcome.problem else logger.info
        tell("hook-ran", hook=str(path), problem=outcome.problem, words=outcome.words)
        outcomes.append(outcome)
        if outcome.problem and until_failure:
            break
    return outcomes


def _is_there(folder: Path) -> bool:
    """Tell whether there is something to list; a link that leads nowhere is, and listing it says what is wrong.

    Raises:
        OSError: the administrator named what it is in, and that isn't there: programs that should say no would be lost.
    """
    if folder.parent not in HOOK_DIRS and not folder.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory, but hooks.dirs names it", str(folder.parent))
    return folder.exists() or folder.is_symlink()


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and not path.name.endswith(LEFTOVERS) and not path.is_dir()


def _is_masked(path: Path) -> bool:
    try:
        return os.path.realpath(path) == os.devnull or path.stat().st_size == 0
    except OSError:
        return False  # it is there and broken: running it says so


def _unfit(path: Path) -> str:
    try:
        found, folder = path.stat(), path.parent.stat()
    except OSError as error:
        return f"can't be read: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    problem, of_folder = writable_by_others(found), writable_by_others(folder)
    if problem or of_folder:
        return f"can't be trusted: {problem}" if problem else f"can't be trusted: of {path.parent}, {of_folder}"
    return "" if os.access(path, os.X_OK) else "isn't executable: chmod +x, or remove it"


def _passed_on() -> dict[str, str]:
    return {name: os.environ[name] for name in ("TZ", "KUBECONFIG", "NOMAD_ADDR", "DOCKER_HOST") if name in os.environ}
