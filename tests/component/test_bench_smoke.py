"""The benchmark's own code, on an image of 8 MiB and without peers: what `make bench` would say is measured right."""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.__main__ import measure
from tests.bench.lab import Images, Lab
from tests.bench.measure import Cost, median
from tests.bench.measure import measure as measure_program
from tests.bench.rows import GOALS, Rows
from tests.bench.slots import expect
from tests.bench.table import Goal, Outcome, Row, as_json, render
from tests.bench.tools import BenchError, need

SIZE = 8 * 1024 * 1024
CHUNK = 64 * 1024


def make_images(directory: Path) -> Images:
    """Two images of random data that have three of four chunks in common."""
    dice = random.Random(1)
    old = bytearray(dice.randbytes(SIZE))
    (directory / "old.img").write_bytes(old)
    for at in range(0, SIZE, 4 * CHUNK):
        old[at : at + CHUNK] = dice.randbytes(CHUNK)
    (directory / "new.img").write_bytes(old)
    return Images(directory / "old.img", directory / "new.img")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path / "bench", 1, lambda: make_images(tmp_path)) as made:
        yield made


def test_installs_are_counted(lab: Lab) -> None:
    """A full install fetches its payload in few requests, one with reuse a quarter of it and the index, no more."""
    full = lab.install(lab.full)
    reused = lab.install(lab.full, reuse=True)
    assert lab.full.size > SIZE
    assert lab.full.size <= full.bytes < lab.full.size + CHUNK
    assert full.requests <= 4
    assert 0.25 * SIZE < reused.bytes < 0.26 * SIZE + lab.full.index_size + 2 * CHUNK
    assert full.result.rss_mib > 10
    assert full.result.cpu > 0


def test_rows_without_peers(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that need no peer are measured, by the daemon too, and make a table."""
    notes: dict[str, object] = {}
    rows = measure(Rows(lab, grown_mib=(2, 6)), ["memory", "requests", "line", "grow", "grow-reuse"], notes)
    assert [row.problem for row in rows] == [""] * 5
    by_key = {row.goal.key: row.outcome for row in rows}
    assert all(outcome is not None and outcome.value == outcome.value for outcome in by_key.values())
    assert "NO" not in render(rows[1:2])
    assert notes["the daemon, start to end"]
    document = json.loads(json.dumps(as_json(rows, {"notes": notes})))
    assert [row["key"] for row in document["rows"]] == ["memory", "requests", "line", "grow", "grow-reuse"]
    assert document["machine"]["date"].endswith("UTC")
    assert "memory: peak memory" in capsys.readouterr().out


def test_a_slot_with_anything_else_is_no_install(lab: Lab) -> None:
    """What doesn't end with the image in the slot isn't measured as an install."""
    lab.disk.wipe()
    with pytest.raises(BenchError, match=r"doesn't hold new\.img"):
        lab.disk.check()
    expect(lab.disk.device, lab.disk.running.offset, lab.images.old)


def test_the_server_counts_ranges(lab: Lab) -> None:
    """Several ranges come in one answer, and every byte of its body is counted."""
    lab.served.joinpath("file").write_bytes(bytes(range(200)))
    request = urllib.request.Request(lab.server.url + "file", headers={"Range": "bytes=0-9,100-109"})
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
        assert answer.headers["Content-Type"].startswith("multipart/byteranges")
    assert bytes(range(10)) in body
    assert bytes(range(100, 110)) in body
    assert lab.server.take_stats() == (len(body), 1)
    assert lab.server.take_stats() == (0, 0)


def test_verdicts() -> None:
    """A figure above what must be reached says NO, one between it and the aim yes, one below the aim says so."""
    goal = Goal("key", "figure", 2.0, 1.0)
    said = [Row(goal, Outcome("a", "b", value)).cells[-1] for value in (2.1, 1.5, 0.9)]
    assert said == ["NO", "yes", "yes, and the aim"]
    assert Row(goal, None, "why").cells[-1] == "NO"
    assert "key: why" in render([Row(goal, None, "why")])


def test_every_goal_of_the_table_can_be_measured(lab: Lab) -> None:
    """Each row's name leads to a measurement; the aim is never easier than what must be reached."""
    assert all(goal.aim <= goal.must for goal in GOALS)
    assert len({goal.key for goal in GOALS}) == len(GOALS)
    with pytest.raises(KeyError):
        Rows(lab).measure("none")


def test_costs_are_the_childrens_too() -> None:
    """Processor time and memory of what a program starts count, and medians are taken of each figure by itself."""
    script = "import sys; b = bytearray(64 << 20); b[::4096] = b'x' * len(b[::4096]); sum(range(8_000_000))"
    cost = measure_program(["sh", "-c", f'python3 -c "{script}"; true'])
    assert cost.cpu > 0.1
    assert cost.rss_mib > 64
    assert median([Cost(1, 6, 7), Cost(2, 4, 9), Cost(3, 5, 8)]) == Cost(2, 5, 8)
    with pytest.raises(BenchError, match="exits with 3"):
        measure_program(["sh", "-c", "exit 3"])


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who isn't root is told which packages to install."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(BenchError, match="apt-get install --no-install-recommends no-such-package"):
        need({"no-such-program": "no-such-package"})
