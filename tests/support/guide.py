"""Runs the console blocks of a page, in order, in one shell, and compares what they print with what the page shows.

A line that begins with `$ ` is a command, with its here-document; the lines up to the next one are its output. `...`
stands for anything, one moment is as good as another, and the width of columns doesn't count. A block is run only when
it is marked ```console.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

END = "=== that was it ==="
HERE_DOCUMENT = re.compile(r"<<'?EOF\b")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
COMMANDS = {
    "lockctl": "lockd.ctl.main",
    "lockd": "lockd.main",
    "lockd-fleetlock": "lockd.fleetlock_main",
    "update-payload": "updated.release.main",
    "update-server": "updated.server.main",
}


@dataclass
class Step:
    """A command and what it is said to print."""

    command: str
    expected: list[str] = field(default_factory=list)


def steps_of(page: str) -> Iterator[Step]:
    """Yield the commands of a page."""
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        step, document = None, False
        for line in block.splitlines():
            if document and step:
                step.command += f"\n{line}"
                document = line != "EOF"
            elif line.startswith("$ "):
                if step:
                    yield step
                step, document = Step(line[2:]), HERE_DOCUMENT.search(line) is not None
            elif step:
                step.expected.append(line)
        if step:
            yield step


def fits(expected: list[str], printed: list[str]) -> bool:
    """Tell whether the output is the one that the page shows."""
    return len(expected) == len(printed) and all(
        re.fullmatch(_pattern(line), _plain(found)) for line, found in zip(expected, printed, strict=True)
    )


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in _plain(line).split("..."))


def _plain(line: str) -> str:
    return " ".join(MOMENT.sub("MOMENT", line).split())


class Shell:
    """One bash in a folder, with the product's commands on its path; a context manager."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name, module in COMMANDS.items():
            (bin_folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            (bin_folder / name).chmod(0o755)
        path = f"{bin_folder}:{os.environ['PATH']}"
        kept = {name: text for name, text in os.environ.items() if not name.startswith("LOCKD_")}
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env={**kept, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "1", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> list[str]:
        """Run a command; return the lines that it printed."""
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.write(f"{command}\necho '{END}'\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        for line in self._bash.stdout:
            if line.rstrip("\n").endswith(END):
                return lines + ([line.removesuffix(f"{END}\n")] if line != f"{END}\n" else [])
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended at {command!r}: {lines}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)  # its own session: it and what it left running
        self._bash.wait()
        for stream in (self._bash.stdin, self._bash.stdout):
            if stream:
                stream.close()
