"""The table that `make e2e` prints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.support.verdicts import HEADINGS, Scenario, starter, table


def _report(scenario: Scenario | None, outcome: str, *, when: str = "call", node: str = "a") -> Any:
    properties = [("scenario", scenario.row)] if scenario else [("figure", "7 boots")]
    return SimpleNamespace(when=when, outcome=outcome, duration=12.4, nodeid=node, user_properties=properties)


def test_table_tells_of_each_boot() -> None:
    """A row has tier, scenario, the slot after each boot, pytest's verdict and the seconds; a failure shows as one."""
    good = starter(lambda _name, _row: None)("nspawn", "update")
    for slot in ("A", "B"):
        good.booted(slot)
    bad = Scenario("vm", "broken release")
    bad.booted("A")
    bad.booted(None)
    lines = table([_report(bad, "failed", node="b"), _report(good, "passed"), _report(None, "passed", node="c")])
    assert lines[0].split() == " ".join(HEADINGS).split()
    assert [line.split() for line in lines[2:]] == [
        ["nspawn", "update", "2", "A", "B", "ok", "12"],
        ["vm", "broken", "release", "2", "A", "-", "failed", "12"],
    ]


def test_table_without_scenarios_is_empty() -> None:
    """A run that booted nothing prints no table, and a test's teardown is no second row."""
    assert table([_report(None, "passed"), _report(Scenario("vm", "x"), "passed", when="teardown")]) == []


def test_one_test_may_play_several_scenarios() -> None:
    """Scenarios of one test share its verdict, and each has its own seconds."""
    one, two = Scenario("vm", "1"), Scenario("vm", "2")
    two.row["begun"] = one.row["begun"] + 4.0
    report = _report(one, "passed")
    report.user_properties.append(("scenario", two.row))
    assert [line.split()[-1] for line in table([report])[2:]] == ["4", "8"]
