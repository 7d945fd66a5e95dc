"""Three real etcd members of one cluster on loopback, to be killed, paused and started again.

Each keeps its ports and its data over a restart, as a machine does.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.etcd import START_SECS, free_port

HEARTBEAT = ("--heartbeat-interval", "50", "--election-timeout", "500")  # milliseconds: elections in tests' time


class Member:
    """One member: a process that may be killed, paused and started again, with what it wrote."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self.name = directory, name
        self._client, self.peer = free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{self._client}"
        self.peer_url = f"http://127.0.0.1:{self.peer}"
        self._child: subprocess.Popen[bytes] | None = None
        self.paused = False

    @property
    def runs(self) -> bool:
        """Whether its process is there and not paused."""
        return self._child is not None and self._child.poll() is None and not self.paused

    def start(self, cluster: str, *options: str) -> None:
        command = [
            "etcd", "--name", self.name, "--data-dir", str(self._directory / self.name),
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", cluster, *HEARTBEAT, *options,
        ]  # fmt: skip
        with (self._directory / f"{self.name}.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)
            self._child.kill()
            self._child.wait()
            self._child, self.paused = None, False

    def pause(self) -> None:
        """Stop it in its tracks; it answers nobody until `resume`."""
        assert self._child is not None
        self._child.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Let it go on, with all that it thought when it stopped."""
        assert self._child is not None
        self._child.send_signal(signal.SIGCONT)
        self.paused = False

    def log(self) -> str:
        return (self._directory / f"{self.name}.log").read_text()[-2000:]


class Cluster:
    """Three members; a context manager."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.members = [Member(directory, name) for name in ("one", "two", "three")]
        self._options = options

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def start(self, member: Member) -> None:
        member.start(",".join(f"{one.name}={one.peer_url}" for one in self.members), *self._options)

    def __enter__(self) -> Self:
        for member in self.members:
            self.start(member)
        self.wait_healthy()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            member.kill()

    def heal(self) -> None:
        """Have all three run again, and wait until they agree."""
        for member in self.members:
            if member.paused:
                member.resume()
            elif not member.runs:
                self.start(member)
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until each member answers a linearizable read."""
        deadline = time.monotonic() + START_SECS
        for member in self.members:
            while not _is_healthy(member.endpoint):
                assert time.monotonic() < deadline, f"{member.name} isn't healthy:\n{member.log()}"
                time.sleep(0.05)


def _is_healthy(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(f"{endpoint}/health", timeout=2) as answer:
            return json.load(answer).get("health") in ("true", True)
    except (OSError, urllib.error.URLError, ValueError):
        return False
