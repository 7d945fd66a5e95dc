"""Starts the product's own daemons for a test, waits for what they say, and stops them by their process id."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
DEADLINE_SECS = 60.0  # generous: shared machines are slow; a test that waits this long has failed


def tool(name: str) -> list[str]:
    """Return how to start one of the product's commands from this very environment."""
    module = {
        "updated": "updated.main",
        "update-ctl": "updated.ctl.main",
        "update-payload": "updated.release.main",
        "update-server": "updated.server.main",
        "lockd": "lockd.main",
        "lockctl": "lockd.ctl.main",
        "lockd-fleetlock": "lockd.fleetlock_main",
    }[name]
    return [sys.executable, "-m", module]


def run_tool(
    name: str, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*tool(name), *map(str, arguments)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECS * 2,
        check=False,
    )


class Process:
    """A daemon with its log in a file."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as file:
            self.child = subprocess.Popen(
                list(argv), env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def stop(self) -> int:
        """End it as systemd would, and return its exit code."""
        if self.child.poll() is None:
            self.child.terminate()
        try:
            return self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.child.kill()
        self.child.wait()

    def wait_log(self, text: str) -> str:
        """Wait until the log has `text`; return the line."""
        return wait_for(lambda: self._line(text), f"{text!r} in {self.log}", self)

    def _line(self, text: str) -> str | None:
        return next((line for line in self.log.read_text().splitlines() if text in line), None)


def wait_for(look: Callable[[], T | None], what: str, *watched: Process, secs: float = DEADLINE_SECS) -> T:
    """Poll until `look` returns something; fail at the deadline, or as soon as a watched process has died."""
    deadline = time.monotonic() + secs
    while True:
        found = look()
        if found:
            return found
        for process in watched:
            code = process.child.poll()
            assert code is None, f"{process.child.args!r} died with {code}:\n{process.log.read_text()[-3000:]}"
        logs = "\n".join(process.log.read_text()[-2000:] for process in watched)
        assert time.monotonic() < deadline, f"no {what} within {secs:.0f} s\n{logs}"
        time.sleep(0.02)
