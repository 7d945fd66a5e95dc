"""The agent without a bus, and the bus that comes back: a real dbus-daemon that is ended and started again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.dbus import CONFIG
from tests.support.disks import make_disk
from tests.support.machine import Machine
from tests.support.processes import Process, tool, wait_for
from updated.common import reboot
from updated.slots.boot.gptprio import GptPrio

HEALTHY = {"lib/os-release": "IMAGE_VERSION=1.0.0\n", "libexec/health-check": "exit 0\n"}


class BusDaemon:
    """A dbus-daemon at a fixed address."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.address = f"unix:path={folder}/socket"
        self._folder = folder
        self._config = folder / "bus.conf"
        self._config.write_text(CONFIG.format(directory=folder))
        self._process: Process | None = None

    def start(self) -> None:
        argv = ["dbus-daemon", f"--config-file={self._config}", "--nofork", "--nopidfile", f"--address={self.address}"]
        self._process = Process(argv, self._folder / "bus.log")
        wait_for((self._folder / "socket").exists, "bus", self._process)

    def stop(self) -> None:
        assert self._process is not None
        self._process.stop()
        (self._folder / "socket").unlink(missing_ok=True)


def new_machine(tmp_path: Path, address: str) -> Machine:
    made = Machine(tmp_path / "host", server="http://127.0.0.1:9", product="p", bus=address)
    make_disk(made.disk, 64 * 1024)
    a, _ = GptPrio(made.disk, booted_partuuids=()).slots()
    (made.root / "cmdline").write_text(f"root=PARTUUID={a.partuuid} ro\n")
    (made.root / "boot_id").write_text("0b6fa1c3-6f0b-4d83-9e0e-5a8a3b1a2c01\n")
    for name, text in HEALTHY.items():
        path = made.root / "booted/usr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return made


def test_agent_judges_a_boot_without_a_bus_and_answers_once_there_is_one(tmp_path: Path) -> None:
    """Without a bus the boot is judged and confirmed; the same process answers after the bus came, went and came."""
    bus = BusDaemon(tmp_path / "bus")
    machine = new_machine(tmp_path, bus.address)
    machine.updated = agent = Process(tool("updated"), machine.root / "updated.log", machine.env)
    try:
        agent.wait_log("event=bus-unreachable")
        agent.wait_log("trigger=healthy state=idle")
        for _ in range(2):
            bus.start()
            wait_for(lambda: machine.ctl("status").returncode == 0, "answer over the bus", agent)
            assert machine.status()["boot_confirmed"]
            bus.stop()
        assert machine.ctl("status").returncode == 4
        assert agent.child.poll() is None
    finally:
        assert agent.stop() == 0
    assert "Traceback" not in agent.log.read_text()


@pytest.mark.parametrize("variable", ["SYSTEMCTL_SKIP_AUTO_KEXEC", "SYSTEMCTL_SKIP_AUTO_SOFT_REBOOT"])
async def test_configured_reboot_takes_no_short_cut(tmp_path: Path, variable: str) -> None:
    """A reboot command runs with what keeps `systemctl reboot` from going past the boot loader."""
    done = await reboot.run_reboot_command(["sh", "-c", f"test ${variable} = 1"])
    assert done.returncode == 0
    plain = subprocess.run(["sh", "-c", f"test ${variable} = 1"], check=False, capture_output=True)
    assert plain.returncode != 0
