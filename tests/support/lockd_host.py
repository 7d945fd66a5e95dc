"""One host for lockd's component tests: a policy file, ids in files, a bus of its own, an agent double, the daemon."""

from __future__ import annotations

import json
import subprocess
import uuid
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.agent_double import NEED_REBOOT, AgentDouble
from tests.support.dbus import private_bus
from tests.support.processes import Process, run_tool, tool, wait_for

LOCKD_TOML = """
group = "web"
machine_id = "{name}"
boot_id_file = "{root}/boot_id"
state_dir = "{root}/state"
hold_file = "{root}/hold"
reboot_command = {reboot}
{more}
"""


class LockdHost:
    """A context manager; `root` holds everything it has."""

    def __init__(self, root: Path, name: str, more: str, *, logind: bool = False) -> None:
        root.mkdir(parents=True)
        self.root, self.name = root, name
        self.reboot_file = root / "reboot-requested"
        self.boot_id = ""
        self.new_boot_id()
        reboot = [] if logind else ["touch", str(self.reboot_file)]
        (root / "lockd.toml").write_text(LOCKD_TOML.format(root=root, name=name, reboot=json.dumps(reboot), more=more))
        self._stack = ExitStack()
        self.env: dict[str, str] = {}
        self.lockd: Process | None = None

    def __enter__(self) -> Self:
        bus = self._stack.enter_context(private_bus(self.root / "bus"))
        self.env = {"LOCKD_CONFIG": str(self.root / "lockd.toml"), "LOCKD_BUS_ADDRESS": bus}
        self.agent = AgentDouble(bus, self.root / "agent", self.boot_id)
        self._stack.callback(self.agent.stop)
        self._stack.callback(self.stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def new_boot_id(self) -> None:
        self.boot_id = str(uuid.uuid4())
        (self.root / "boot_id").write_text(self.boot_id + "\n")

    def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        (self.root / "lockd.log").write_text("")
        self.lockd = Process(tool("lockd"), self.root / "lockd.log", self.env)
        self.lockd.wait_log("ready")

    def stop(self) -> None:
        if self.lockd is not None:
            assert self.lockd.stop() == 0, self.lockd.log.read_text()
            self.lockd = None

    def run_second(self) -> subprocess.CompletedProcess[str]:
        """Start another daemon on the same bus, which must end by itself."""
        return run_tool("lockd", env=self.env)

    def need_reboot(self, version: str) -> None:
        """Let the agent say that an update waits for the reboot."""
        self.agent.say(operation=NEED_REBOOT, version_new=version)

    def wait_reboot(self) -> None:
        wait_for(self.reboot_file.exists, f"reboot of {self.name}", self._running())

    def power_cycle(self, **agent: Any) -> None:
        """Go down hard and come up in a new boot, in which the agent says `agent`."""
        if self.lockd is not None:
            self.lockd.kill()
            self.lockd = None
        self.reboot_file.unlink(missing_ok=True)
        self.new_boot_id()
        self.agent.say(operation="UPDATE_STATUS_IDLE", boot_id=self.boot_id, **agent)
        self.start()

    def wait_log(self, text: str) -> str:
        return self._running().wait_log(text)

    def wait_gate(self, gate: str, state: str = "closed") -> dict[str, Any]:
        """Wait until a gate stands like this; return it."""

        def look() -> dict[str, Any] | None:
            return next((one for one in self.explain() if one["gate"] == gate and one["state"] == state), None)

        return wait_for(look, f"gate {gate} {state}", self._running())

    def explain(self) -> list[dict[str, Any]]:
        done = self.lockctl("explain", "--json")
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def group(self) -> dict[str, Any]:
        """Return `lockctl status --json`."""
        done = self.lockctl("status", "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def holders(self) -> dict[str, str]:
        """Return who holds a slot, and in which phase."""
        return {ticket["id"]: ticket["phase"] for ticket in self.group()["holders"]}

    def lockctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_tool("lockctl", *arguments, env=self.env)

    def _running(self) -> Process:
        assert self.lockd is not None
        return self.lockd
