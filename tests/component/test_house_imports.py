"""The import contracts of pyproject.toml hold something: each breaks on an import that it is there to forbid."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# what the contract's name begins with, a module, an import that doesn't belong there
BAD = [
    ("updated: imports point down", "updated/payload/limits.py", "import updated.install.fetch"),
    ("updated: imports point down", "updated/omaha/messages.py", "import updated.confirm.health"),
    ("updated: imports point down", "updated/brand_new.py", ""),
    ("pure modules", "updated/payload/framing.py", "import os"),
    ("pure modules", "updated/omaha/response.py", "import updated.common.clock"),
    ("pure modules", "lockd/windows.py", "import time"),
    ("pure modules", "lockd/oncalendar.py", "import os"),
    ("the server's decisions", "updated/server/decisions.py", "import starlette"),
    ("the daemon carries", "updated/agent/loop.py", "import updated.release.build"),
    ("lockd carries no web server", "lockd/coordinator.py", "import starlette"),
    ("updated never imports lockd", "updated/ctl/main.py", "import lockd.tickets"),
    ("lockd: imports point down", "lockd/tickets.py", "import lockd.store"),
    ("lockd sees of updated", "lockd/store.py", "import updated.config"),
    ("one module knows the D-Bus library", "updated/ctl/client.py", "import dbus_next"),
    ("one module starts processes", "lockd/store.py", "import subprocess"),
]


def broken_contracts(tree: Path) -> set[str]:
    """Run the linter on a tree; return the names of the contracts that don't hold."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PATH": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    verdicts = re.findall(r"^(.+?) (KEPT|BROKEN)", done.stdout, re.MULTILINE)
    assert verdicts, done.stdout + done.stderr
    return {name for name, verdict in verdicts if verdict == "BROKEN"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the product's code and of the contracts."""
    for package in ("updated", "lockd"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("contract", "module", "line"), BAD)
def test_a_bad_import_breaks_its_contract(tree: Path, contract: str, module: str, line: str) -> None:
    """An import that a contract forbids is found, and named by that contract."""
    with (tree / module).open("a") as file:
        file.write(f"{line}\n")
    assert any(name.startswith(contract) for name in broken_contracts(tree))


def test_every_contract_is_tried() -> None:
    """No contract of pyproject.toml lacks an example of what it forbids."""
    _, _, contracts = (ROOT / "pyproject.toml").read_text().partition("[tool.importlinter]")
    names = re.findall(r'^name = "(.*)"$', contracts, re.MULTILINE)
    assert [name for name in names if not any(name.startswith(contract) for contract, _, _ in BAD)] == []
