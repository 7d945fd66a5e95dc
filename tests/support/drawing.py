"""Writes docs/state-machine.md from the agent's table: `python -m tests.support.drawing`."""

from __future__ import annotations

from pathlib import Path

from updated.agent.machine import draw

TARGET = Path(__file__).parents[2] / "docs/state-machine.md"
HEAD = """# The agent's state machine

Drawn from the table in `updated/agent/machine.py`; a test fails when this page is stale. A transition reads
`event / effects`.

"""


def main() -> None:
    """Write the page."""
    TARGET.write_text(f"{HEAD}```mermaid\n{draw()}```\n")


if __name__ == "__main__":
    main()
