"""The operator's page does what it says: each of its commands is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.etcd import free_port
from tests.support.guide import Shell, fits, steps_of

PAGE = Path(__file__).parents[2] / "docs" / "operating-lockd.md"
PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4}\b|\b(?:23|24|25)(?:79|80)\b|\b8437\b")


def with_free_ports(page: str) -> str:
    """Replace each of the page's ports by a free one."""
    ports: dict[str, str] = {}
    return PORT.sub(lambda match: ports.setdefault(match[0], str(free_port())), page)


@pytest.mark.timeout(900)
def test_every_command_of_the_page_prints_what_the_page_shows(tmp_path: Path) -> None:
    """From one host to three members, groups, windows and a drain: the page's commands, in order, in one shell."""
    steps = list(steps_of(with_free_ports(PAGE.read_text())))
    assert len(steps) > 20
    with Shell(tmp_path, {}) as shell:
        for step in steps:
            printed = shell.run(step.command)
            assert fits(step.expected, printed), f"$ {step.command}\n" + "\n".join(printed)
