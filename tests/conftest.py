"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.support.campaign import long_too
from tests.support.figures import gather
from tests.support.verdicts import Scenario, starter, table

os.umask(0o022)  # files of settings and keys that a group may write are refused, whatever the developer's shell makes


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the daemons do."""
    return "asyncio"


@pytest.fixture
def scenario(record_property: Callable[[str, object], None]) -> Callable[[str, str], Scenario]:
    """Begin a row of the table of `make e2e`: `scenario("nspawn", "update A to B").booted("A")`."""
    return starter(record_property)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `long` to `make e2e` and `make campaign`; pytest says how many it deselected."""
    if long_too():
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded: `figure` and `figures`, how much was tried; `scenario`, the table of the machines."""
    reports = [
        report
        for stats in terminalreporter.stats.values()
        for report in stats
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    recorded = [pair for report in reports for pair in report.user_properties]
    figures = [str(value) for name, value in recorded if name == "figure"] + gather(recorded)
    if figures:
        terminalreporter.section("figures")
        for figure in sorted(figures):
            terminalreporter.line(figure)
    if lines := table(reports):
        terminalreporter.section("end to end")
        for line in lines:
            terminalreporter.line(line)
