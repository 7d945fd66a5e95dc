"""The system calls of a machine's daemon from its first instruction on, and what a unit's filter allows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nspawn import NspawnHost
from tests.support.processes import Process, wait_for

ROOT = Path(__file__).parents[2]
# the daemon's process stops before it becomes the daemon, until it is traced
STOPPED_FIRST = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'kill -STOP $$$$; exec /usr/bin/{name}'\n"
# what systemctl and journalctl try at their start and do without: it takes a capability, whatever the filter says
HARMLESS = r"prlimit64\(0, RLIMIT_NOFILE|SO_(RCV|SND)BUFFORCE"


@contextmanager
def traced(host: NspawnHost, name: str, out: Path) -> Iterator[None]:
    """Trace a daemon of a machine that has begun to boot, with STOPPED_FIRST as its drop-in, into the file `out`."""
    pid = wait_for(lambda: _stopped(host, f"kill -STOP $$; exec /usr/bin/{name}"), f"process of {name}")
    log = out.with_suffix(".log")
    tracer = Process(["strace", "-f", "-y", "-o", str(out), "-p", str(pid)], log)
    try:
        wait_for(lambda: f"Process {pid} attached" in log.read_text(), "tracer", tracer)
        os.kill(pid, signal.SIGCONT)
        yield
    finally:
        tracer.stop()


def _stopped(host: NspawnHost, command: str) -> int | None:
    """Return the process id, as this machine has it, of a shell of the container that stopped itself."""
    namespace = Path(f"/proc/{host.leader}/ns/pid").readlink()
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            same = folder.name.isdecimal() and command.encode() in words and (folder / "ns/pid").readlink() == namespace
            if same and re.search(r"^State:\s+T", (folder / "status").read_text(), re.MULTILINE):
                return int(folder.name)
        except OSError:
            continue
    return None


def calls_of(trace: Path) -> set[str]:
    """Return the names of the system calls in a trace."""
    return set(re.findall(r"^\d+ +([a-z0-9_]+)\(", trace.read_text(errors="replace"), re.MULTILINE))


def denied_in(trace: Path) -> list[str]:
    """Return the lines of a trace in which a system call wasn't permitted, HARMLESS aside."""
    lines = re.findall(r"^.* = -1 EPERM .*$", trace.read_text(errors="replace"), re.MULTILINE)
    return [line for line in lines if not re.search(HARMLESS, line)]


def filter_of(unit: str) -> list[str]:
    """Return a shipped unit's SystemCallFilter= lines."""
    text = (ROOT / f"systemd/{unit}.service").read_text()
    return [line for line in text.splitlines() if line.startswith("SystemCallFilter=")]


def allowed_by(lines: list[str]) -> set[str]:
    """Return the system calls that SystemCallFilter= lines allow, sets resolved by systemd-analyze."""
    allowed: set[str] = set()
    for line in lines:
        words = line.partition("=")[2]
        names = {call for word in words.removeprefix("~").split() for call in _members(word)}
        allowed = allowed - names if words.startswith("~") else allowed | names
    return allowed


def _members(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    listed = [line.split("#")[0].strip() for line in done.stdout.splitlines()[1:]]
    return {call for member in listed if member for call in _members(member)}
