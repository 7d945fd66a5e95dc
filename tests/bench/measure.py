"""What a program costs: wall time, processor time of it and all its children, the largest memory of any of them."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.bench.tools import ENV, SHOWN, BenchError

LOOK_SECS = 0.02
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds of wall time, seconds of user and system time, MiB of peak memory (of one process)."""

    wall: float
    cpu: float
    rss_mib: float

    def __add__(self, then: Cost) -> Cost:
        """Return what both cost, one after the other."""
        return Cost(self.wall + then.wall, self.cpu + then.cpu, max(self.rss_mib, then.rss_mib))

    def __str__(self) -> str:
        return f"{self.wall:.2f} s, CPU {self.cpu:.2f} s, {self.rss_mib:.0f} MiB"


def median(costs: Iterable[Cost]) -> Cost:
    """Return the medians, each figure for itself."""
    every = list(costs)
    return Cost(*(statistics.median(getattr(cost, name) for cost in every) for name in ("wall", "cpu", "rss_mib")))


class Watch:
    """Looks at the peak memory of a process and its descendants while they live.

    wait4's figure won't do: it begins with that of the process which forked.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._end = pid, threading.Event()
        self.peak_kib = 0
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def peak_mib(self) -> float:
        return self.peak_kib / 1024

    def _look_on(self) -> None:
        while not self._end.wait(LOOK_SECS):
            self.peak_kib = max(self.peak_kib, *map(high_water, family(self._pid)))


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for one in found:  # it grows as we go
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has ended meanwhile
    return found


def high_water(pid: int) -> int:
    """Return a process's VmHWM in KiB; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")), 0)


def cpu_of(pid: int) -> float:
    """Return the processor seconds of a living process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK  # utime, stime, cutime, cstime: proc(5), from the third field on


def measure(argv: Sequence[str], *, env: Mapping[str, str] | None = None, good: Sequence[int] = (0,)) -> Cost:
    """Run a program and measure it.

    Raises:
        BenchError: it fails.
    """
    before = time.monotonic()
    with subprocess.Popen(
        list(argv),
        env={**ENV, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as child:
        said = _Reader(child)
        with Watch(child.pid) as watch:
            _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - before
        child.returncode = os.waitstatus_to_exitcode(status)
        text = said.text()
    if child.returncode not in good:
        raise BenchError(f"{' '.join(argv)} exits with {child.returncode}:\n{text[-SHOWN:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, watch.peak_mib)


class _Reader:
    """Keeps a pipe from filling up."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child, self._said = child, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        self._said = self._child.stdout.read()

    def text(self) -> str:
        self._thread.join()
        return self._said.decode(errors="replace")
