"""`update-ctl rollback`: back to the release before, when it ran well, and not below the floor."""

from __future__ import annotations

import json

from tests.support.agent_bench import Bench


def update_and_boot(bench: Bench, version: str, **changes: object) -> None:
    """Install a release and boot into it."""
    bench.publish(version, **changes)
    assert bench.update().returncode == 0
    bench.machine.boot()
    bench.machine.wait_status("confirmed boot", {"boot_confirmed": True, "version_booted": version})


def test_rollback_boots_the_release_before(bench: Bench) -> None:
    """Two good updates, then back: the old slot boots, proves itself, and the newer release isn't taken again."""
    update_and_boot(bench, "1.1.0")
    update_and_boot(bench, "1.2.0")
    done = bench.machine.ctl("rollback", "--yes")
    assert done.returncode == 0, done.stderr
    status = bench.machine.status()
    assert (status["state"], status["version_new"], status["slot_target"]) == ("need-reboot", "1.1.0", "B")
    bench.machine.boot()
    status = bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
    assert (status["version_booted"], status["slot_booted"]) == ("1.1.0", "B")
    slot = bench.machine.slots()["B"]
    assert (slot["successful"], slot["bootable"]) == (True, True)
    assert bench.update().returncode == 3
    assert "it failed here before, or was rolled back from" in str(bench.machine.status()["blocked_by"])
    assert [entry["what"] for entry in json.loads(bench.machine.ctl("history", "--json").stdout)][-2:] == [
        "rollback-asked", "confirmed",
    ]  # fmt: skip
    update_and_boot(bench, "1.3.0")


def test_rollback_to_what_never_ran_is_refused(bench: Bench) -> None:
    """The empty slot of a new machine, and one that holds an update given up, can't be gone back to."""
    for _ in range(2):
        done = bench.machine.ctl("rollback", "--yes")
        assert (done.returncode, "[nothing-to-roll-back]" in done.stderr) == (3, True), done.stderr
        assert bench.machine.status()["state"] == "idle"
        assert not bench.machine.slots()["B"]["bootable"]
        bench.publish("1.1.0")
        assert bench.update().returncode == 0
        assert bench.machine.ctl("rollback", "--yes").returncode == 3  # while it waits for its reboot
        assert bench.machine.ctl("reset").returncode == 0
        bench.machine.wait_status("idle", {"state": "idle"})


def test_rollback_below_the_floor_is_refused(bench: Bench) -> None:
    """A release with a lower index than one that ran well stays away, unless an operator lowers the floor first."""
    update_and_boot(bench, "1.1.0", rollback_index=1)
    update_and_boot(bench, "1.2.0", rollback_index=2)
    before = bench.machine.slots()
    done = bench.machine.ctl("rollback", "--yes")
    assert (done.returncode, "[rollback-index-too-low]" in done.stderr) == (3, True), done.stderr
    assert bench.machine.slots() == before
    (bench.machine.root / "state/rollback-floor").write_text("1\n")
    assert bench.machine.ctl("rollback", "--yes").returncode == 0


def test_rollback_to_a_release_of_unknown_index(bench: Bench) -> None:
    """What was on the disk before the agent came has no known index: any floor is above it."""
    update_and_boot(bench, "1.1.0", rollback_index=1)
    done = bench.machine.ctl("rollback", "--yes")
    assert (done.returncode, "unknown rollback index" in done.stderr) == (3, True), done.stderr


def test_rollback_asks(bench: Bench) -> None:
    """Without --yes and without a terminal nothing is done, and the command says what it lacks."""
    done = bench.machine.ctl("rollback")
    assert (done.returncode, "--yes" in done.stderr) == (2, True)


def test_rollback_survives_a_restart_of_the_agent(bench: Bench) -> None:
    """An agent that was cut off right after it had armed the old slot finds it armed and waits for the reboot."""
    update_and_boot(bench, "1.1.0")
    update_and_boot(bench, "1.2.0")
    assert bench.machine.ctl("rollback", "--yes").returncode == 0
    bench.machine.stop()
    state = bench.machine.root / "state/state.json"
    memory = json.loads(state.read_text())
    memory["pending"]["armed"] = False  # as a cut between arming and remembering it leaves it
    state.write_text(json.dumps(memory))
    bench.machine.start()
    bench.machine.wait_status("need-reboot", {"state": "need-reboot", "version_new": "1.1.0"})
    assert bench.machine.slots()["B"]["bootable"]


def test_rollback_that_was_not_armed_leaves_the_old_slot(bench: Bench) -> None:
    """An agent that was cut off before it had armed the old slot forgets it, and the slot is as good as before."""
    update_and_boot(bench, "1.1.0")
    update_and_boot(bench, "1.2.0")
    before = bench.machine.slots()
    bench.machine.stop()
    state = bench.machine.root / "state/state.json"
    memory = json.loads(state.read_text())
    memory["pending"] = {
        "version_from": "1.2.0", "version_to": "1.1.0", "slot": "B", "partuuid": before["B"]["partuuid"],
        "armed": False, "rollback_index": 1, "boot_id": (bench.machine.root / "boot_id").read_text().strip(),
        "armed_at": "2026-01-01T00:00:00Z", "rollback": True,
    }  # fmt: skip
    state.write_text(json.dumps(memory))
    bench.machine.start()
    bench.machine.wait_status("idle", {"state": "idle"})
    assert bench.machine.slots() == before
    assert json.loads(state.read_text())["pending"] is None


def test_bad_old_release_falls_back_to_the_newer_one(bench: Bench) -> None:
    """Should the old release not come up well any more, the boot loader comes back to what ran before."""
    update_and_boot(bench, "1.1.0")
    update_and_boot(bench, "1.2.0")
    assert bench.machine.ctl("rollback", "--yes").returncode == 0
    config = bench.machine.root / "updated.toml"
    good = config.read_text()
    config.write_text(good.replace("usr/libexec/health-check", "usr/libexec/nothing"))
    bench.machine.boot()
    bench.machine.wait_reboot_request()
    config.write_text(good)
    bench.machine.boot()
    status = bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
    assert (status["version_booted"], status["rolled_back"]["version"]) == ("1.2.0", "1.1.0")


def test_rollback_to_what_nobody_remembers_is_refused(bench: Bench) -> None:
    """Bits that call the other slot good aren't enough: without a memory of its confirmation here it is left alone."""
    update_and_boot(bench, "1.1.0")
    bench.machine.stop()
    (bench.machine.root / "state/state.json").unlink()
    bench.machine.start()
    bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
    assert bench.machine.slots()["A"]["successful"]
    done = bench.machine.ctl("rollback", "--yes")
    assert (done.returncode, "doesn't remember that it confirmed" in done.stderr) == (3, True), done.stderr
    assert bench.machine.status()["state"] == "idle"
