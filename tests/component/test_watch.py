"""`update-ctl watch` as a person sees it on a terminal, and as a log or a script does."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess

import pytest

from tests.support.agent_bench import Bench
from tests.support.processes import Process, tool, wait_for
from updated.ctl import show
from updated.ctl.watch import Rate

STATUS = {
    "state": "downloading", "progress": 0.5, "bytes_done": 50 * 1024**2, "bytes_reused": 0,
    "bytes_total": 100 * 1024**2,
    "version_new": "1.1.0", "version_booted": "1.0.0", "blocked_by": None, "last_error": None,
}  # fmt: skip


def test_bar_shows_progress_rate_and_time_left() -> None:
    """Half of 100 MiB at 10 MiB/s: half a bar, the rate, five seconds left."""
    assert show.bar_line(STATUS, 10 * 1024**2) == (
        "downloading   [###############---------------] 50.0 % (50.0 MiB of 100.0 MiB)  10.0 MiB/s  0:05 left"
    )


def test_bar_without_a_rate_promises_nothing() -> None:
    """Before a rate is known no time left is shown."""
    assert "left" not in show.bar_line(STATUS, None)


def test_rate_is_the_mean_of_the_last_seconds_and_starts_anew() -> None:
    """Old speed is forgotten after ten seconds, and another download begins without the last one's."""
    rate = Rate()
    assert rate.update(0.0, 0) is None
    assert rate.update(2.0, 200) == 100.0
    assert rate.update(11.0, 200) == pytest.approx(0.0)
    assert rate.update(12.0, 10) is None


def test_watch_draws_a_bar_on_a_terminal(bench: Bench) -> None:
    """On a terminal one line is redrawn with bar, rate and time left, and ends in need-reboot."""
    bench.publish("1.1.0", compression="none")
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [*tool("update-ctl"), "watch"], stdout=theirs, stdin=subprocess.DEVNULL, env={**os.environ, **bench.machine.env}
    )
    os.close(theirs)
    try:
        seen = os.read(ours, 65536).decode()  # the state at the start: it listens from here on
        assert "idle" in seen
        assert bench.update().returncode == 0
        while "need-reboot" not in seen:
            seen += os.read(ours, 65536).decode()
    finally:
        watching.terminate()
        watching.wait(10)
        os.close(ours)
    assert "\r\x1b[K" in seen
    assert re.search(r"downloading\s+\[#+-*\] \d+\.\d % .*MiB/s  \d:\d\d left", seen)


def test_watch_into_a_pipe_writes_documents(bench: Bench) -> None:
    """`watch --json` writes one status document a change, and no terminal codes."""
    bench.publish("1.1.0")
    watching = Process([*tool("update-ctl"), "watch", "--json"], bench.machine.root / "watch.log", bench.machine.env)
    try:
        watching.wait_log('"idle"')
        assert bench.update().returncode == 0
        wait_for(lambda: '"need-reboot"' in watching.log.read_text(), "end of the update", watching)
    finally:
        watching.stop()
    states = [json.loads(line)["state"] for line in watching.log.read_text().splitlines()]
    assert [state for index, state in enumerate(states) if index == 0 or states[index - 1] != state] == [
        "idle", "checking", "downloading", "verifying", "finalizing", "need-reboot",
    ]  # fmt: skip
