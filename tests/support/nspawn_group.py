"""The group that a machine's lockd shares its tickets with: a real etcd outside, and a look at it from outside."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.etcd import Etcd
from tests.support.processes import run_tool


class TicketGroup:
    """A group of hosts whose tickets are in an etcd of one member; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.etcd = Etcd(folder / "etcd")
        self._config = folder / "lockctl.toml"

    def __enter__(self) -> Self:
        self.etcd.__enter__()
        self._config.write_text(self.settings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.etcd.stop()

    @property
    def settings(self) -> str:
        """What lockd.toml of a member of the group says."""
        return f'strategy = "etcd"\n[etcd]\nendpoints = ["{self.etcd.endpoint}"]\n'

    def status(self) -> dict[str, Any]:
        """Return `lockctl status --json` as asked from outside the machines: max, holders, waiting, paused, ..."""
        done = run_tool(
            "lockctl", "status", "--json", env={"LOCKD_CONFIG": str(self._config), "LOCKD_MACHINE_ID": "me"}
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))
