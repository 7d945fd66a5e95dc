"""A host in small: a GPT disk in a file, both daemons on a private bus, and a boot loader model that picks the slot.

"Booting" reads /usr out of the slot that the model picked, gives the machine a new boot id and kernel command line,
and starts the daemons on them, as a real boot would.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

from tests.support.bootloader import Choice, boot
from tests.support.images import dump_usr
from tests.support.processes import Process, run_tool, tool, wait_for

UPDATED_TOML = """
state_dir = "{root}/state"
[server]
url = "{server}/v1/update/"
product = "{product}"
channel = "stable"
initial_delay_secs = 3600.0
[trust]
keys_dir = "{root}/keys"
allow_version_1 = true
[slots]
disk = "{root}/disk.img"
tries = 1
[health]
units = []
commands = [["sh", "{root}/booted/usr/libexec/health-check"]]
deadline_secs = 2.0
interval_secs = 0.5
reboot_command = ["touch", "{root}/reboot-requested"]
[host]
cmdline = "{root}/cmdline"
mountinfo = "{root}/mountinfo"
boot_id = "{root}/boot_id"
machine_id = "{root}/machine-id"
os_release = "{root}/booted/usr/lib/os-release"
"""


class Machine:
    """One host; `root` holds everything it has."""

    def __init__(self, root: Path, *, server: str, product: str, bus: str, lockd_toml: str | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.disk = root, root / "disk.img"
        self.env = {
            "UPDATED_CONFIG": str(root / "updated.toml"),
            "LOCKD_CONFIG": str(root / "lockd.toml"),
            "UPDATED_BUS_ADDRESS": bus,
            "LOCKD_BUS_ADDRESS": bus,
        }
        (root / "keys").mkdir()
        (root / "mountinfo").write_text("")
        (root / "machine-id").write_text(uuid.uuid4().hex + "\n")
        (root / "updated.toml").write_text(UPDATED_TOML.format(root=root, server=server, product=product))
        self._with_lockd = lockd_toml is not None
        (root / "lockd.toml").write_text((lockd_toml or "").format(root=root))
        self.updated: Process | None = None
        self.lockd: Process | None = None

    def boot(self) -> Choice:
        """Let the boot loader model pick a slot and start from it."""
        self.stop()
        choice = boot(self.disk)
        (self.root / "cmdline").write_text(f"BOOT_IMAGE=/vmlinuz root=PARTUUID={choice.partuuid} ro quiet\n")
        (self.root / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self.root / "reboot-requested").unlink(missing_ok=True)
        dump_usr(self.disk, choice.offset, self.root / "booted")
        self.start()
        return choice

    def start(self) -> None:
        """Start both daemons and wait until the agent answers."""
        self.updated = Process(tool("updated"), self.root / "updated.log", self.env)
        if self._with_lockd:
            self.lockd = Process(tool("lockd"), self.root / "lockd.log", self.env)
        wait_for(lambda: self.ctl("status").returncode == 0, "answer of updated", self.updated)

    def stop(self) -> None:
        """Stop both daemons, as a shutdown does."""
        for process in (self.lockd, self.updated):
            if process is not None:
                process.stop()
        self.lockd = self.updated = None

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run update-ctl against this machine."""
        return run_tool("update-ctl", *arguments, env=self.env)

    def lockctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run lockctl against this machine."""
        return run_tool("lockctl", *arguments, env=self.env)

    def status(self) -> dict[str, Any]:
        """Return `update-ctl status --json`."""
        done = self.ctl("status", "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def slots(self) -> dict[str, dict[str, Any]]:
        """Return `update-ctl slots --json` by name."""
        return {slot["name"]: slot for slot in json.loads(self.ctl("slots", "--json").stdout)}

    def wait_status(self, what: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Wait until the status has all of `wanted`."""

        def look() -> dict[str, Any] | None:
            status = self.status()
            return status if all(status[key] == value for key, value in wanted.items()) else None

        assert self.updated is not None
        return wait_for(look, what, self.updated)

    def wait_reboot_request(self) -> None:
        """Wait until somebody asked for a reboot."""
        watched = [process for process in (self.updated, self.lockd) if process is not None]
        wait_for((self.root / "reboot-requested").exists, "reboot request", *watched)
