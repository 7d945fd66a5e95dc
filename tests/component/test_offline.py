"""The commands that only look, on a host whose agent doesn't run: from its settings, state and boot loader's data."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import Bits, make_disk
from tests.support.machine import Machine
from tests.support.processes import run_tool
from updated.agent.memory import Memory, encode
from updated.confirm.rollback import Pending
from updated.slots.boot.gptprio import GptPrio

BOOT = str(uuid.uuid4())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that runs 1.0.0 from slot A, has 1.1.0 armed in slot B, and no agent, nor a bus."""
    made = Machine(tmp_path / "host", server="http://127.0.0.1:9", product="p", bus=f"unix:path={tmp_path}/no-bus")
    make_disk(made.disk, 64 * 1024, bits={"USR-A": Bits(1, 0, True), "USR-B": Bits(2, 3, False)})
    a, b = GptPrio(made.disk, booted_partuuids=()).slots()
    (made.root / "cmdline").write_text(f"root=PARTUUID={a.partuuid} ro\n")
    (made.root / "boot_id").write_text(BOOT + "\n")
    release = made.root / "booted/usr/lib/os-release"
    release.parent.mkdir(parents=True)
    release.write_text("IMAGE_VERSION=1.0.0\n")
    memory = Memory(confirmed_boot_id=BOOT, failed_versions=["0.9.0"])
    memory.pending = Pending("1.0.0", "1.1.0", "B", b.partuuid, 3, BOOT, "2026-01-01T00:00:00Z", armed=True)
    memory.note("2026-01-01T00:00:00Z", "installed", "1.1.0", "slot B")
    (made.root / "state").mkdir()
    (made.root / "state/state.json").write_bytes(encode(memory))
    return made


def ask(machine: Machine, *command: str) -> Any:
    """Run a command with --json; it must say that the agent can't be reached."""
    done = machine.ctl(*command, "--json")
    said = done.stderr
    assert (done.returncode, "[unreachable]" in said, "Traceback" in said) == (4, True, False), said
    return json.loads(done.stdout)


def test_files_answer_for_the_agent(machine: Machine) -> None:
    """Status, explain, slots and history tell what the files hold, and that the agent doesn't run."""
    status = ask(machine, "status")
    assert (status["state"], status["version_booted"], status["version_new"]) == ("need-reboot", "1.0.0", "1.1.0")
    assert (status["slot_booted"], status["slot_target"], status["boot_confirmed"]) == ("A", "B", True)
    assert "the agent doesn't run: " in status["blocked_by"]
    reasons = ask(machine, "explain")["reasons"]
    assert [reason["what"] for reason in reasons] == ["not-running", "need-reboot"]
    assert "systemctl start updated.service" in reasons[0]["ends"]
    slots = {slot["name"]: slot for slot in ask(machine, "slots")}
    assert (slots["A"]["booted"], slots["B"]["tries"], slots["B"]["priority"]) == (True, 3, 2)
    assert [entry["what"] for entry in ask(machine, "history")] == ["installed"]
    for command in ("status", "explain", "slots", "history"):
        assert machine.ctl(command).stdout.strip()


def test_every_command_says_that_there_are_no_slots(machine: Machine) -> None:
    """On a system that runs from no slot each command, also one that needs the agent, says so in words."""
    (machine.root / "cmdline").write_text("root=/dev/nfs\n")
    for words in (
        ["status"], ["explain"], ["slots"], ["history"], ["check"], ["update"], ["watch"], ["reset"], ["reload"],
        ["rollback", "--yes"], ["apply", "https://127.0.0.1:9/x.payload"],
    ):  # fmt: skip
        done = machine.ctl(*words)
        assert done.returncode == 4, words
        assert "this system runs from no known partition: no slot of" in done.stdout + done.stderr, words


def test_looking_changes_nothing(machine: Machine) -> None:
    """Neither a damaged state file is set aside nor anything on the disk written by a command that only looks."""
    state = machine.root / "state/state.json"
    state.write_bytes(b'{"half": ')
    before = machine.disk.read_bytes()
    for command in ("status", "explain", "slots", "history"):
        ask(machine, command)
    assert state.read_bytes() == b'{"half": '
    assert list(state.parent.iterdir()) == [state]
    assert machine.disk.read_bytes() == before
    reasons = ask(machine, "explain")["reasons"]
    assert [reason["what"] for reason in reasons] == ["not-running", "state"]
    assert "damaged" in reasons[1]["why"]


@pytest.mark.parametrize(
    ("broken", "name", "says"),
    [
        ("updated.toml", "config", "is not TOML"),
        ("cmdline", "slot-not-found", "no slot"),
        ("disk.img", "gpt-invalid", ""),
    ],
)
def test_permanent_fault_is_told_and_ends_the_agent_for_good(
    machine: Machine, broken: str, name: str, says: str
) -> None:
    """Wrong settings, no slots, a destroyed table: explain says it, and the agent exits with 78, as the unit has it."""
    if broken == "disk.img":
        machine.disk.write_bytes(bytes(machine.disk.stat().st_size))
    else:
        (machine.root / broken).write_text("root=PARTUUID=00000000-0000-0000-0000-000000000000 = =\n")
    reasons = ask(machine, "explain")["reasons"]
    assert [reason["what"] for reason in reasons][:2] == ["not-running", name]
    assert says in reasons[1]["why"]
    assert "put right" in reasons[0]["ends"]
    agent = run_tool("updated", env=machine.env)
    assert (agent.returncode, f"[{name}]" in agent.stderr) == (78, True), agent.stderr
    unit = (Path(__file__).parents[2] / "systemd/updated.service").read_text()
    assert "RestartPreventExitStatus=78\n" in unit


def test_requests_are_no_files_matter(machine: Machine) -> None:
    """What would change something needs the agent: those commands say so and print nothing else."""
    for command in (["check"], ["update"], ["reset"], ["reload"], ["rollback", "--yes"]):
        done: subprocess.CompletedProcess[str] = machine.ctl(*command)
        assert (done.returncode, done.stdout) == (4, ""), command
