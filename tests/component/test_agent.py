"""The agent as a real process: real D-Bus, real HTTP server, a GPT disk in a file, and all that may go wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.agent_bench import Bench
from tests.support.disks import ENV
from tests.support.processes import Process, run_tool, tool, wait_for
from tests.support.releases import PRODUCT, SLOT_BYTES
from updated.common.bus import BusCallError, connect
from updated.release.sign import keygen

ENGINE = ("com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager")
AGENT = ("org.updated.Agent1", "/org/updated/Agent1", "org.updated.Agent1.Manager")


def test_status_has_the_promised_keys(bench: Bench) -> None:
    """`status --json` has every key that commands.md promises, with values of the right kind."""
    status = bench.machine.status()
    promised = {
        "state", "version_booted", "version_new", "slot_booted", "slot_target", "progress", "bytes_done", "bytes_total",
        "bytes_reused", "last_check", "last_error", "next_check", "blocked_by",
    }  # fmt: skip
    assert promised <= set(status)
    assert (status["state"], status["version_booted"], status["slot_booted"]) == ("idle", "1.0.0", "A")
    assert 0 <= status["progress"] <= 1


def test_update_installs_arms_and_survives_a_restart_of_the_agent(bench: Bench) -> None:
    """After an install the state is need-reboot, also for an agent that was killed and started again."""
    bench.publish("1.1.0")
    assert bench.update().returncode == 0
    slot = bench.machine.slots()["B"]
    assert (slot["bootable"], slot["tries"], slot["successful"]) == (True, 1, False)
    with bench.machine.disk.open("rb") as disk:
        disk.seek(1024 * 1024 + 64 * 1024 + SLOT_BYTES)
        assert disk.read(SLOT_BYTES) == bench.workshop.image("1.1.0").read_bytes()
    assert bench.machine.updated is not None
    bench.machine.updated.kill()
    bench.machine.start()
    status = bench.machine.wait_status("state", {"state": "need-reboot"})
    assert (status["version_new"], status["slot_target"]) == ("1.1.0", "B")
    assert bench.machine.ctl("status", "--exit-code").returncode == 12


def test_agent_polls_by_itself(bench: Bench) -> None:
    """Nobody asks: at the first poll after its start the agent finds, installs and arms a release."""
    bench.publish("1.1.0")
    config = bench.machine.root / "updated.toml"
    config.write_text(config.read_text().replace("initial_delay_secs = 3600.0", "initial_delay_secs = 0.0"))
    bench.machine.stop()
    bench.machine.start()
    bench.machine.wait_status("state", {"state": "need-reboot", "version_new": "1.1.0"})


def test_reset_gives_an_armed_update_up(bench: Bench) -> None:
    """`update-ctl reset` un-marks the new slot: the next boot is the old one, and the update can be taken again."""
    bench.publish("1.1.0")
    assert bench.update().returncode == 0
    assert bench.machine.ctl("reset").returncode == 0
    bench.machine.wait_status("state", {"state": "idle"})
    assert not bench.machine.slots()["B"]["bootable"]
    assert bench.update().returncode == 0


def test_check_only_looks(bench: Bench) -> None:
    """`update-ctl check` exits with 0 when up to date and with 10 when there is a release, and installs nothing."""
    bench.publish("1.0.0")
    assert bench.machine.ctl("check").returncode == 0
    bench.publish("1.1.0")
    before = bench.facts()
    assert bench.machine.ctl("check").returncode == 10
    assert bench.machine.status()["version_new"] == "1.1.0"
    assert bench.facts() == before


def test_no_key_no_install(bench: Bench) -> None:
    """Without a trusted key nothing is installed (update_engine goes on without one)."""
    (bench.machine.root / "keys/release.pem").unlink()
    bench.publish("1.1.0")
    bench.refused(3, "key-missing")


def test_unreadable_key_no_install(bench: Bench) -> None:
    """One key that can't be read stops every install, for it may be the one that was meant to replace another."""
    (bench.machine.root / "keys/second.pem").write_text("-----BEGIN PUBLIC KEY-----\nnonsense\n")
    bench.publish("1.1.0")
    bench.refused(3, "key-unreadable")


def test_weak_key_no_install(bench: Bench, tmp_path: Path) -> None:
    """A key of 1024 bits is no key."""
    keygen(tmp_path / "weak", 1024)
    (bench.machine.root / "keys/weak.pem").write_bytes((tmp_path / "weak/public.pem").read_bytes())
    bench.publish("1.1.0")
    bench.refused(3, "key-weak")


def test_payload_signed_by_a_stranger(bench: Bench, tmp_path: Path) -> None:
    """A payload that another key signed is refused before anything is written."""
    keygen(tmp_path / "stranger")
    bench.publish("1.1.0", key=tmp_path / "stranger/private.pem")
    bench.refused(3, "metadata-signature-mismatch")


def test_payload_of_another_channel(bench: Bench) -> None:
    """A rightly signed payload for another channel isn't taken, whatever the server says."""
    bench.publish("1.1.0", channel="beta")
    bench.refused(3, "channel-mismatch")


def test_payload_of_another_product(bench: Bench) -> None:
    """A rightly signed payload of another product isn't taken, though the server offers it as ours."""
    release = bench.workshop.build(bench.releases, "1.1.0", product="org.example.other")
    facts = json.loads(release.read_text())
    release.write_text(json.dumps({**facts, "product": PRODUCT}))
    run_tool("update-server", "publish", bench.releases, release, "--channel", "stable")
    bench.refused(3, "product-mismatch")


def test_replay_of_an_older_release(bench: Bench) -> None:
    """An old release under a new version number is refused by its signed rollback index."""
    (bench.machine.root / "state/rollback-floor").write_text("5\n")
    bench.publish("1.1.0", rollback_index=4)
    bench.refused(3, "rollback-index-too-low")


def test_expired_release(bench: Bench) -> None:
    """A release whose last day is over isn't taken: a server can't freeze a host on it."""
    bench.publish("1.1.0", not_after=1_000_000_000)
    bench.refused(3, "release-expired")


@pytest.mark.parametrize("change", [-1, 1])
def test_payload_of_the_wrong_size(bench: Bench, change: int) -> None:
    """A payload a byte too short or too long for the offer is refused."""
    release = bench.publish("1.1.0")
    facts = json.loads(release.read_text())
    release.write_text(json.dumps({**facts, "size": facts["size"] + change}))
    bench.refused(1, "payload-size-mismatch")


def test_server_that_names_another_hash(bench: Bench) -> None:
    """A payload that comes whole and isn't what the answer names is refused even though it is rightly signed."""
    release = bench.publish("1.1.0", major=1)
    facts = json.loads(release.read_text())
    release.write_text(json.dumps({**facts, "sha256": "00" * 32}))
    bench.refused(3, "payload-hash-mismatch")


def test_server_that_is_gone(bench: Bench) -> None:
    """A server that doesn't answer is an error that says so."""
    bench.server.stop()
    bench.refused(1, "omaha-unreachable")


def test_image_that_is_too_large(bench: Bench) -> None:
    """An image larger than the slot is refused before anything is written."""
    image = bench.workshop.directory / "large.img"
    image.write_bytes(b"x" * (SLOT_BYTES + 4096))
    bench.publish("1.1.0", image=image)
    bench.refused(3, "target-too-small")


def test_kill_in_the_middle_of_an_install(bench: Bench) -> None:
    """An agent that was killed while it wrote leaves a slot that can't boot, and the next one installs."""
    bench.publish("1.1.0")
    before = bench.facts()
    assert bench.machine.ctl("update").returncode == 0
    assert bench.machine.updated is not None
    bench.machine.updated.wait_log("state=downloading")
    bench.machine.updated.kill()
    bench.machine.start()
    status = bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
    assert bench.facts()[:2] == before[:2]
    if status["state"] != "need-reboot":  # unless the install was faster than the kill
        assert not bench.machine.slots()["B"]["bootable"]
        assert bench.update().returncode == 0


def test_second_agent_is_refused(bench: Bench) -> None:
    """Two agents on one bus: the second says that there is one, and ends."""
    second = Process(tool("updated"), bench.machine.root / "second.log", bench.machine.env)
    assert wait_for(lambda: second.child.poll() is not None, "end of the second agent")
    assert second.child.returncode == 1
    assert "[busy]" in second.log.read_text()


async def test_update_engines_interface_answers_as_its_clients_expect(bench: Bench) -> None:
    """com.coreos.update1: GetStatus has the five values, ResetStatus from idle is no error, nobody sees a traceback."""
    bus = await connect(bench.bus)
    try:
        last, progress, operation, version, size = await bus.call(*ENGINE, "GetStatus")
        assert (last, progress, operation, version, size) == (0, 0.0, "UPDATE_STATUS_IDLE", "0.0.0", 0)
        assert await bus.call(*ENGINE, "ResetStatus") == []
        assert await bus.call(*ENGINE, "AttemptUpdate") == []
        with pytest.raises(BusCallError) as caught:
            await bus.call(*AGENT, "Nonsense")
        assert "Traceback" not in caught.value.text
    finally:
        await bus.close()


def test_once_checks_installs_and_exits_as_check_does(bench: Bench) -> None:
    """`updated --once` without a release exits with 0, with one it installs and exits with 12."""
    bench.publish("1.0.0")
    bench.machine.stop()
    environment = {**bench.machine.env, "UPDATED_BUS_ADDRESS": "unix:path=/nonexistent"}
    assert run_tool("updated", "--once", env=environment).returncode == 0
    bench.publish("1.1.0")
    assert run_tool("updated", "--once", env=environment).returncode == 12


def test_commands_say_when_no_agent_runs(bench: Bench) -> None:
    """update-ctl exits with 4 and says what to do when nobody answers."""
    bench.machine.stop()
    done = bench.machine.ctl("status")
    assert done.returncode == 4
    assert "what to do: " in done.stderr


def test_agent_without_its_disk_says_so(bench: Bench) -> None:
    """A disk that isn't there ends the agent with a sentence and a hint, not with a traceback."""
    bench.machine.stop()
    bench.machine.disk.rename(bench.machine.root / "elsewhere.img")
    agent = Process(tool("updated"), bench.machine.root / "no-disk.log", bench.machine.env)
    assert wait_for(lambda: agent.child.poll() is not None, "end of the agent")
    said = agent.log.read_text()
    assert (agent.child.returncode, "what to do: " in said, "Traceback" in said) == (1, True, False)


def test_waiting_command_ends_when_the_agent_does(bench: Bench) -> None:
    """`update-ctl watch` exits with 4 when the agent goes away, instead of waiting for ever."""
    watching = Process([*tool("update-ctl"), "watch"], bench.machine.root / "watch.log", bench.machine.env)
    watching.wait_log("idle")
    bench.machine.stop()
    assert wait_for(lambda: watching.child.poll() is not None, "end of watch")
    assert (watching.child.returncode, "what to do: " in watching.log.read_text()) == (4, True)


def test_agent_starts_on_an_unproven_boot_with_an_interrupted_arming(bench: Bench) -> None:
    """Where the other slot may be the only fallback it stays as it is, and the agent runs all the same."""
    bench.machine.stop()
    state = bench.machine.root / "state/state.json"
    memory = json.loads(state.read_text())
    memory["pending"] = {
        "version_from": "1.0.0", "version_to": "1.1.0", "slot": "B", "partuuid": "gone", "rollback_index": 1,
        "boot_id": "another", "armed_at": "2026-01-01T00:00:00Z", "armed": False,
    }  # fmt: skip
    state.write_text(json.dumps({**memory, "confirmed_boot_id": ""}))
    bits = ["sfdisk", "--no-reread", "--no-tell-kernel", "--part-attrs", str(bench.machine.disk), "2"]
    subprocess.run([*bits, "GUID:48,52"], check=True, env=ENV, capture_output=True)  # priority 1, one try, unproven
    bench.machine.boot()
    bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
    assert json.loads(state.read_text())["pending"] is None
