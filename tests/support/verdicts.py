"""The table of `make e2e`: a row a scenario, which slot each boot left behind, and pytest's own verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, Protocol

PROPERTY = "scenario"
MOST_SHOWN = 12  # slots of one row; of more, the first and the last
NOTHING = "-"  # a boot from which no slot came up
HEADINGS = ("tier", "scenario", "boots", "slot after each", "verdict", "seconds")


class Report(Protocol):
    """What this module reads of a pytest report."""

    when: str
    outcome: str
    duration: float
    nodeid: str
    user_properties: list[tuple[str, Any]]


class Scenario:
    """What a test tells about one scenario while it runs; the dict is what pytest carries into its reports."""

    def __init__(self, tier: str, name: str) -> None:
        self.row: dict[str, Any] = {"tier": tier, "scenario": name, "slots": [], "begun": time.monotonic()}

    def booted(self, slot: str | None) -> None:
        """Note the end of a boot: the slot that the disk says came up, or None when none did."""
        self.row["slots"].append(slot or NOTHING)


def starter(record_property: Callable[[str, object], None]) -> Callable[[str, str], Scenario]:
    """Return what a test calls at its start with the tier and the scenario's name."""

    def start(tier: str, name: str) -> Scenario:
        scenario = Scenario(tier, name)
        record_property(PROPERTY, scenario.row)
        return scenario

    return start


def table(reports: Iterable[Report]) -> list[str]:
    """Return the table's lines for a run's reports; empty when no test told of a scenario."""
    rows = [row for report in reports if report.when == "call" for row in _rows(report)]
    if not rows:
        return []
    cells = [HEADINGS, *sorted(rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _rows(report: Report) -> Iterator[tuple[str, ...]]:
    """A test may play several scenarios, one after the other: they share its verdict, and each has its own seconds."""
    told = [value for name, value in report.user_properties if name == PROPERTY]
    for row, following in zip_longest(told, told[1:]):
        slots = row["slots"]
        shown = slots if len(slots) <= MOST_SHOWN else [*slots[:4], "...", *slots[-2:]]
        begun = row["begun"] - told[0]["begun"]
        seconds = (following["begun"] - told[0]["begun"] if following else report.duration) - begun
        verdict = "ok" if report.outcome == "passed" else report.outcome
        cells = (row["tier"], row["scenario"], str(len(slots)), " ".join(shown) or NOTHING, verdict)
        yield *cells, f"{seconds:.0f}"
