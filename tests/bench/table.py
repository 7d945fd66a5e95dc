"""The table: what is measured, what must be reached, what was."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from updated.common.cli import table

HEAD = ("figure", "ours", "peer", "ratio", "must reach", "aim", "met")


@dataclass(frozen=True)
class Outcome:
    """What a row measured: in words, and the one number that is compared with the goals."""

    ours: str
    peer: str
    value: float


@dataclass(frozen=True)
class Goal:
    """A row's name on the command line, its figure, and how small the number must and should be."""

    key: str
    figure: str
    must: float
    aim: float
    unit: str = ""  # of value, must and aim; none: a ratio


@dataclass(frozen=True)
class Row:
    """A measured row; no outcome: it failed, and why."""

    goal: Goal
    outcome: Outcome | None
    problem: str = ""

    @property
    def met(self) -> bool:
        return self.outcome is not None and self.outcome.value <= self.goal.must

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        goal, outcome = self.goal, self.outcome
        goals = (_number(goal.must, goal.unit), _number(goal.aim, goal.unit))
        if outcome is None:
            return (goal.figure, "failed", "", "", *goals, "NO")
        verdict = "NO" if not self.met else "yes, and the aim" if outcome.value <= goal.aim else "yes"
        return (goal.figure, outcome.ours, outcome.peer, _number(outcome.value, goal.unit), *goals, verdict)


def _number(value: float, unit: str) -> str:
    if not unit:
        return f"{value:.3f}".rstrip("0").rstrip(".") if value < 10 else f"{value:.1f}"
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"


def render(rows: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    problems = [f"{row.goal.key}: {row.problem}" for row in rows if row.problem]
    return "\n".join([table([HEAD, *(row.cells for row in rows)]), *problems])


def machine() -> dict[str, str]:
    """Return what was measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in _text("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    release = dict(line.split("=", 1) for line in _text("/etc/os-release").splitlines() if "=" in line)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{os.cpu_count()} x {cpu}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{release.get('PRETTY_NAME', 'Linux').strip(chr(34))}, Linux {platform.release()}",
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f} when it ended",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def as_json(rows: Sequence[Row], notes: dict[str, Any]) -> dict[str, Any]:
    """Return everything for a program."""
    return {
        "machine": machine(),
        "rows": [
            {
                **asdict(row.goal),
                "outcome": asdict(row.outcome) if row.outcome else None,
                "met": row.met,
                "problem": row.problem,
            }
            for row in rows
        ],
        **notes,
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
