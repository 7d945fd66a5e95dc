"""Fixtures that every test may use."""

from __future__ import annotations

import pytest

from tests.support.figures import gather


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the daemons do."""
    return "asyncio"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded as a `figure`, or noted as `figures`: how much was tried, and what came of it."""
    recorded = [
        pair
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for pair in report.user_properties
    ]
    figures = [str(value) for name, value in recorded if name == "figure"] + gather(recorded)
    if figures:
        terminalreporter.section("figures")
        for figure in sorted(figures):
            terminalreporter.line(figure)
