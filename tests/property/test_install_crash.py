"""A power cut at any point of a whole update: install, arm, the boot after it, and a trial that fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.campaign import scale
from tests.support.crash_host import BLOCK, Releases, quick_folder
from tests.support.crash_judge import Judge
from tests.support.crash_replay import Figures, Recording, Replay, judge_all
from tests.support.figures import note

pytestmark = pytest.mark.timeout(scale(300, 3600))
FAILED_BOOTS = 2  # one, in which its tries are spent, then the old release again


@dataclass(frozen=True)
class Scenario:
    """A payload's kind; `cut_at`: the install goes on after a cut at so many bytes; `direct`: past the page cache."""

    kind: str
    images: int  # at least so many distinct ones in `make test`
    campaign: int  # and in `make campaign`
    direct: bool = True
    cut_at: int = 0
    samples: tuple[int, int] = (14, 120)  # combinations drawn between two flushes, in each of the two


SCENARIOS = {
    "full": Scenario("full", 400, 2500),
    "full-buffered": Scenario("full", 400, 2500, direct=False),
    "full-v1": Scenario("full-v1", 400, 1200, samples=(40, 260)),
    "delta": Scenario("delta", 400, 2000, direct=False),
    "reuse": Scenario("reuse", 400, 1000, samples=(40, 260)),
    "resumed-full": Scenario("full", 400, 1000, direct=False, cut_at=200_000),
    "resumed-v1": Scenario("full-v1", 400, 1000, cut_at=200_000, samples=(40, 260)),
    "resumed-delta": Scenario("delta", 350, 700, cut_at=240_000, samples=(70, 420)),
    "resumed-reuse": Scenario("reuse", 400, 800, direct=False, cut_at=150_000, samples=(40, 260)),
}
BUFFERS = (4, 2)[: scale(1, 2)]  # blocks that the engine writes at once: other ones, other images


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """The releases that all hosts here take."""
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder for a host."""
    with quick_folder("crash") as folder:
        yield folder


@pytest.mark.parametrize("blocks", BUFFERS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_cut_at_any_point_of_an_update(
    quick: Path, releases: Releases, name: str, blocks: int, record_property
) -> None:
    """Whatever a cut leaves, an intact slot boots, no torn one may, no file lies; the agent arrives in the end."""
    scenario = SCENARIOS[name]
    replay = Replay(quick, releases, scenario.kind, direct=scenario.direct, buffer=blocks * BLOCK)
    recordings = [*_until_cut(replay, scenario), *replay.update()]
    figures = judge_all(
        recordings,
        Judge(releases, scenario.kind),
        replay,
        samples=scale(*scenario.samples),
        every=scale(16, 8),
    )
    _note(record_property, figures)
    assert figures.faults == []
    assert figures.images >= scale(scenario.images, scenario.campaign)
    assert figures.converged == figures.tried > 0


def _until_cut(replay: Replay, scenario: Scenario) -> list[Recording]:
    """Leave the host with half an install, if that is what it begins with; what is resumed isn't fetched again."""
    if not scenario.cut_at:
        return []
    whole = replay.record()
    half = whole.cut(scenario.cut_at)
    replay.host.restore(half)
    assert replay.record().fetched < whole.fetched - 16 * 1024
    replay.host.restore(half)
    return []


def test_a_cut_while_a_bad_release_is_tried(quick: Path, releases: Releases, record_property) -> None:
    """A release that is never healthy isn't marked good at any point, and the host comes back to the old one."""
    replay = Replay(quick, releases, "reuse")
    replay.host.healthy = False
    recordings = [replay.record() for _ in range(1 + FAILED_BOOTS)]
    figures = judge_all(
        recordings[1:], Judge(releases, "reuse", healthy=False), replay, samples=scale(8, 40), every=scale(12, 4)
    )
    _note(record_property, figures)
    assert figures.faults == []
    assert figures.images >= 80
    assert figures.converged == figures.tried > 0
    assert replay.host.reboots >= 1


def _note(record_property, figures: Figures) -> None:
    note(
        record_property,
        "crash images",
        distinct=figures.images,
        without_an_intact_pick=figures.no_pick,
        torn_that_could_be_picked=figures.torn,
        with_a_file_that_lies=figures.other,
        of_them_started_again=figures.tried,
        converged=figures.converged,
    )
