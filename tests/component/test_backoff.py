"""A payload that keeps failing is left alone for a while: real agent, D-Bus and HTTP, and a server that lost it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.agent_bench import Bench
from tests.support.front import Front
from tests.support.processes import wait_for
from updated.common.clock import rfc3339

DEFERRED = "trigger=offer-deferred"


@pytest.fixture
def front(bench: Bench) -> Iterator[Front]:
    """What the agent asks from its next start on; it offers 1.1.0 and can't deliver it."""
    config = bench.machine.root / "updated.toml"
    text = config.read_text()
    server = next(line.split('"')[1] for line in text.splitlines() if line.startswith("url = "))
    with Front(server.removesuffix("/v1/update/")) as made:
        config.write_text(text.replace(server, f"{made.url}/v1/update/"))
        restart(bench)
        bench.publish("1.1.0")
        yield made


def restart(bench: Bench, *, polls: bool = False) -> None:
    """Start the agent anew, with an empty log; `polls` lets it check at once and then every second."""
    bench.machine.stop()
    config = bench.machine.root / "updated.toml"
    if polls:
        soon = "initial_delay_secs = 0.0\npoll_interval_secs = 1.0"
        config.write_text(config.read_text().replace("initial_delay_secs = 3600.0", soon))
    (bench.machine.root / "updated.log").write_text("")
    bench.machine.start()


def count(bench: Bench, text: str) -> int:
    return (bench.machine.root / "updated.log").read_text().count(text)


def wait_for_polls(bench: Bench, what: str, times: int) -> None:
    assert bench.machine.updated is not None
    wait_for(lambda: count(bench, what) >= times, f"{times} times {what}", bench.machine.updated)


def state_file(bench: Bench) -> Path:
    return bench.machine.root / "state/state.json"


def move_expiry(bench: Bench, by: timedelta) -> None:
    """Stop the agent and set when the payload may be tried again, from now."""
    bench.machine.stop()
    memory = json.loads(state_file(bench).read_text())
    memory["backoff"]["not_before"] = rfc3339(datetime.now(UTC) + by)
    state_file(bench).write_text(json.dumps(memory))


def test_failed_payload_is_left_alone_at_the_next_polls(bench: Bench, front: Front) -> None:
    """After one failure polls only look, the server hears update_engine's 3/9 with 40, and explain says all of it."""
    restart(bench, polls=True)
    wait_for_polls(bench, DEFERRED, 2)
    fetched = len(front.fetched)
    assert fetched > 0
    wait_for_polls(bench, DEFERRED, 4)
    assert len(front.fetched) == fetched
    status = bench.machine.status()
    not_before = json.loads(state_file(bench).read_text())["backoff"]["not_before"]
    assert status["last_error"]["name"] == "http-status"
    if status["state"] == "idle":  # it isn't during a poll
        assert status["blocked_by"] == f"the payload of version 1.1.0 failed once; it is tried again at {not_before}"
    wait = datetime.fromisoformat(not_before) - datetime.now(UTC)
    assert timedelta(minutes=3) < wait < timedelta(minutes=23)
    events = [json.loads(line) for line in (bench.releases / "events.jsonl").read_text().splitlines()]
    told = [(event["eventtype"], event["eventresult"], event["errorcode"]) for event in events]
    assert (3, 9, 40) in told


def test_explain_says_what_ends_it_also_after_a_restart(bench: Bench, front: Front) -> None:
    """Reason and way out are shown after the failure, after a restart, and after a look by `update-ctl check`."""
    assert bench.update().returncode == 1
    for _ in range(2):
        said = bench.machine.ctl("explain").stdout
        for part in (
            "1.1.0 failed once; it is tried again at",
            "or another release",
            "`update-ctl update`",
            "`update-ctl reset`",
        ):
            assert part in said
        restart(bench)
    assert bench.machine.ctl("check").returncode == 10
    assert "failed once" in bench.machine.status()["blocked_by"]
    assert front.fetched


def test_failed_payload_is_tried_again_after_its_time(bench: Bench, front: Front) -> None:
    """Once the time is over a poll takes it, and success forgets the failures."""
    assert bench.update().returncode == 1
    move_expiry(bench, timedelta(seconds=-1))
    front.lost = False
    restart(bench, polls=True)
    bench.machine.wait_status("state", {"state": "need-reboot", "version_new": "1.1.0"})
    assert "backoff" not in json.loads(state_file(bench).read_text())


def test_second_failure_waits_longer(bench: Bench, front: Front) -> None:
    """A payload that fails again after its time is left alone for about an hour; one by hand counts as well."""
    assert bench.update().returncode == 1
    assert bench.update().returncode == 1
    known = json.loads(state_file(bench).read_text())["backoff"]
    wait = datetime.fromisoformat(known["not_before"]) - datetime.now(UTC)
    assert known["attempt"] == 2
    assert timedelta(minutes=25) < wait <= timedelta(minutes=90)
    assert "failed 2 times" in bench.machine.status()["blocked_by"]
    assert front.fetched


def test_expiry_that_a_wrong_clock_left_behind(bench: Bench, front: Front) -> None:
    """A time further away than any wait doesn't hold the payload back."""
    assert bench.update().returncode == 1
    move_expiry(bench, timedelta(days=17))
    front.lost = False
    restart(bench, polls=True)
    bench.machine.wait_status("state", {"state": "need-reboot"})


def test_person_goes_ahead_at_once(bench: Bench, front: Front) -> None:
    """`update-ctl update` doesn't wait."""
    assert bench.update().returncode == 1
    front.lost = False
    assert bench.update().returncode == 0
    assert bench.machine.status()["state"] == "need-reboot"


def test_reset_forgets_the_failures(bench: Bench, front: Front) -> None:
    """After `update-ctl reset` nothing is left, and the next poll installs."""
    assert bench.update().returncode == 1
    assert bench.machine.ctl("reset").returncode == 0
    bench.machine.wait_status("nothing in the way", {"blocked_by": None})
    front.lost = False
    restart(bench, polls=True)
    bench.machine.wait_status("state", {"state": "need-reboot"})


def test_another_release_isnt_held_back(bench: Bench, front: Front) -> None:
    """What another payload did says nothing about this one."""
    assert bench.update().returncode == 1
    bench.publish("1.2.0")
    front.lost = False
    restart(bench, polls=True)
    bench.machine.wait_status("state", {"state": "need-reboot", "version_new": "1.2.0"})


def test_answer_that_disables_backoff(bench: Bench, front: Front) -> None:
    """With DisablePayloadBackoff every poll tries again, as it is with update-server."""
    front.disable_backoff = True
    restart(bench, polls=True)
    wait_for_polls(bench, "trigger=install-failed", 2)
    assert count(bench, DEFERRED) == 0
    assert len(front.fetched) >= 2


def test_trouble_of_this_host_is_no_attempt(bench: Bench, front: Front) -> None:
    """Without a usable key every poll says so; the payload isn't to blame."""
    (bench.machine.root / "keys/release.pem").unlink()
    front.lost = False
    assert bench.update().returncode == 3
    assert bench.machine.status()["blocked_by"] is None
    assert "backoff" not in json.loads(state_file(bench).read_text())
