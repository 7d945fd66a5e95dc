"""The table of `make e2e`: a row a scenario, which slot each boot left behind, and pytest's own verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

PROPERTY = "scenario"
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
        self.row: dict[str, Any] = {"tier": tier, "scenario": name, "slots": []}

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
    rows = {report.nodeid: row for report in reports if report.when == "call" and (row := _row(report)) is not None}
    if not rows:
        return []
    cells = [HEADINGS, *sorted(rows.values())]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _row(report: Report) -> tuple[str, ...] | None:
    told = next((value for name, value in report.user_properties if name == PROPERTY), None)
    if told is None:
        return None
    slots = told["slots"]
    shown = ("", *slots) if len(slots) <= 12 else ("", *slots[:4], "...", *slots[-2:])
    verdict = {"passed": "ok"}.get(report.outcome, report.outcome)
    return (
        told["tier"],
        told["scenario"],
        str(len(slots)),
        " ".join(shown[1:]) or NOTHING,
        verdict,
        f"{report.duration:.0f}",
    )
