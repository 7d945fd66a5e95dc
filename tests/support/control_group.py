"""A control group of its own for a container: two containers in one group would share what systemd sets up per unit."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.processes import wait_for


class ControlGroup:
    """A group below this process's own, in the unified hierarchy."""

    def __init__(self, name: str) -> None:
        self.path = _own() / name
        self.path.mkdir()

    def enter_first(self, command: list[str]) -> list[str]:
        """Return a command line that enters the group and becomes `command`."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path), *command]

    def processes(self) -> list[int]:
        """Return the process ids of all that runs in it."""
        return [int(pid) for file in self.path.rglob("cgroup.procs") for pid in file.read_text().split()]

    def remove(self) -> None:
        """End whatever is left in it, and take it away with all groups below."""
        if self.path.exists():
            (self.path / "cgroup.kill").write_text("1")
            wait_for(self._is_gone, f"end of what runs in {self.path}")

    def _is_gone(self) -> bool:
        folders = [path for path in self.path.rglob("*") if path.is_dir()]
        for folder in sorted(folders, reverse=True):
            subprocess.run(
                ["rmdir", str(folder)], check=False, capture_output=True
            )  # busy for as long as it has processes
        subprocess.run(["rmdir", str(self.path)], check=False, capture_output=True)
        return not self.path.exists()


def _own() -> Path:
    """Return this process's group in the unified hierarchy, as a path.

    Raises:
        RuntimeError: there is none.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            point = before.split()[4]
            own = next(row[3:] for row in Path("/proc/self/cgroup").read_text().splitlines() if row.startswith("0::"))
            return Path(point) / own.lstrip("/")
    raise RuntimeError("no unified control group hierarchy (cgroup2) is mounted here")
