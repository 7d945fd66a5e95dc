"""The replay of power cuts can fail: wrong orders, seeded into the write path, are all found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.campaign import scale
from tests.support.crash_bugs import BUGS
from tests.support.crash_host import Releases, quick_folder
from tests.support.crash_judge import Judge
from tests.support.crash_replay import Replay, judge_all
from tests.support.figures import note
from updated.install.checkpoint import Checkpoint

pytestmark = pytest.mark.timeout(scale(300, 3600))


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """The releases that all hosts here take."""
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder for a host."""
    with quick_folder("crash") as folder:
        yield folder


@pytest.mark.parametrize("name", BUGS)
def test_a_wrong_order_is_caught(
    quick: Path, releases: Releases, name: str, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    """With this step too early or left out, some image of a cut is judged to be bad, for the right reason."""
    bug = BUGS[name]
    replay = Replay(quick, releases, bug.kind)
    install = []
    if not bug.healthy:
        install.append(replay.record())
        replay.host.healthy = False
    bug.patch(monkeypatch)
    recordings = [*install, replay.record(bug.fault() if bug.fault else None), replay.record()]
    judge = Judge(releases, bug.kind, healthy=bug.healthy)
    figures = judge_all(recordings, judge, replay, samples=scale(5, 40), every=bug.every, until=bug.sign)
    caught = any(bug.sign in fault for fault in figures.faults)
    note(record_property, "seeded ordering bugs", seeded=1, caught=int(caught), of_them=[name])
    assert caught, figures


def test_a_checkpoint_of_another_payload_is_not_trusted(
    quick: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    """Half a delta is nothing to another payload; were it, the read-back would find out, and all be fetched again."""
    replay = Replay(quick, releases, "full")
    replay.release = releases.other
    half = replay.record().cut(240_000)
    replay.release = releases.of["full"]

    def thrown_away() -> bool:
        replay.host.restore(half)
        with capture_logs() as logs:
            replay.record()
        return any(line["event"] == "reuse-failed" for line in logs)

    assert not thrown_away()
    monkeypatch.setattr(Checkpoint, "is_of", lambda *_: True)
    caught = thrown_away()
    note(
        record_property, "seeded ordering bugs", seeded=1, caught=int(caught), of_them=["another payload's checkpoint"]
    )
    assert caught
