"""Settings that change while the agent runs: which take effect, which wait for a restart, and wrong ones."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dbus import private_bus
from tests.support.disks import make_disk
from tests.support.machine import Machine
from tests.support.processes import wait_for
from updated.agent.reload import compare
from updated.config import HealthSettings, ServerSettings, Settings, SlotSettings
from updated.slots.boot.gptprio import GptPrio


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs 1.0.0 from slot A and has no server to ask."""
    with private_bus(tmp_path / "bus") as bus:
        made = Machine(tmp_path / "host", server="http://127.0.0.1:9", product="p", bus=bus)
        make_disk(made.disk, 64 * 1024)
        a, _ = GptPrio(made.disk, booted_partuuids=()).slots()
        (made.root / "cmdline").write_text(f"root=PARTUUID={a.partuuid} ro\n")
        (made.root / "boot_id").write_text("0b6fa1c3-6f0b-4d83-9e0e-5a8a3b1a2c01\n")
        for name, text in {"lib/os-release": "IMAGE_VERSION=1.0.0\n", "libexec/health-check": "exit 0\n"}.items():
            path = made.root / "booted/usr" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        made.start()
        made.wait_status("confirmed boot", {"boot_confirmed": True})
        yield made
        made.stop()


def change(machine: Machine, old: str, new: str) -> None:
    config = machine.root / "updated.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def reload(machine: Machine) -> Any:
    done = machine.ctl("reload", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_new_settings_are_in_force_without_a_restart(machine: Machine) -> None:
    """A server and an interval that changed count from the reload on, by the same process."""
    assert machine.updated is not None
    pid = machine.updated.child.pid
    before = machine.status()["next_check"]
    change(machine, "initial_delay_secs = 3600.0", "initial_delay_secs = 7200.0")
    assert reload(machine) == {"changed": ["server.initial_delay_secs"], "needs_restart": []}
    assert machine.status()["next_check"] > before
    change(machine, 'product = "p"', 'product = ""')
    reload(machine)
    assert machine.ctl("check").returncode == 13
    assert "no product is configured" in machine.status()["last_error"]["message"]
    assert (machine.updated.child.pid, machine.updated.child.poll()) == (pid, None)


def test_wrong_settings_are_refused_and_the_old_ones_stay(machine: Machine) -> None:
    """A reload of files that are wrong fails with the reason, by command and by signal, and changes nothing."""
    assert machine.updated is not None
    before = machine.status()
    change(machine, "interval_secs = 0.5", "interval_secs = 0.0")
    done = machine.ctl("reload")
    assert (done.returncode, "interval_secs must be above 0" in done.stderr) == (1, True), done.stderr
    machine.updated.child.send_signal(signal.SIGHUP)
    wait_for(lambda: machine.updated.log.read_text().count("settings-refused") == 1, "refusal", machine.updated)  # type: ignore[union-attr]
    assert machine.status() == before
    change(machine, "interval_secs = 0.0", "interval_secs = 0.25")
    machine.updated.child.send_signal(signal.SIGHUP)
    assert "changed=health.interval_secs" in machine.updated.wait_log("event=settings-read")


def test_what_the_agent_is_built_on_waits_for_a_restart(machine: Machine) -> None:
    """Another state directory or disk is told to need a restart, and the agent stays with those that it has."""
    slots = machine.slots()
    change(machine, 'state"\n', 'state-2"\n')
    change(machine, "tries = 1", "tries = 2")
    change(machine, 'disk.img"', 'other.img"')
    assert reload(machine) == {"changed": ["slots.tries"], "needs_restart": ["slots.disk", "state_dir"]}
    assert machine.slots() == slots
    assert machine.updated is not None
    assert machine.updated.wait_log("restart-needed")
    assert not (machine.root / "state-2").exists()


def test_comparison_keeps_what_cannot_change() -> None:
    """Pure: of two settings the outcome has the running one's foundations, and the new one's everything else."""
    running = Settings(slots=SlotSettings(tries=3))
    read = Settings(
        server=ServerSettings(url="https://x.example"),
        health=HealthSettings(trial_boots=2),
        slots=SlotSettings(tries=5, labels=("X", "Y")),
        state_dir=Path("/elsewhere"),
        bus_address="unix:path=/x",
        log_level="debug",
    )
    found = compare(running, read)
    assert set(found.changed) == {"server.url", "health.trial_boots", "slots.tries", "log_level"}
    assert set(found.needs_restart) == {"slots.labels", "state_dir", "bus_address"}
    assert found.settings.slots == SlotSettings(tries=5)
    assert (found.settings.state_dir, found.settings.bus_address) == (running.state_dir, None)
    assert (found.settings.server, found.settings.health) == (read.server, read.health)
    assert compare(running, running).changed == ()
