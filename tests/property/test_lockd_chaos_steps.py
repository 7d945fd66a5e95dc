"""Random histories of a fleet on a real etcd, by connections that lose, repeat and delay what goes over them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.support.campaign import scale
from tests.support.etcd import Etcd
from tests.support.lockd_chaos import Fleet

RUNS = scale(40, 10_000)
STEPS = 50
BATCHES = 4  # so that the workers share them
SETTLED = 3  # every third is followed to its end; that costs as much as the history itself


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    options = ("--auto-compaction-mode=revision", "--auto-compaction-retention=1000")
    with Etcd(tmp_path_factory.mktemp("etcd"), *options) as running:
        yield running


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.timeout(scale(300, 4 * 3600))
async def test_never_too_many_gone_whatever_happens(etcd: Etcd, batch: int) -> None:
    """Over any history, no step lets more go down than max says, and, followed to the end, everybody gets its turn."""
    went_down = 0
    for number in range(batch, RUNS, BATCHES):
        fleet = Fleet(etcd.endpoint, f"run-{number}", random.Random(number))
        try:
            await history(fleet, number)
            went_down += sum(line.endswith("-> down") for line in fleet.log)
        finally:
            await fleet.close()
    assert went_down > RUNS / BATCHES, "hardly anybody went down: nothing was tried"


async def history(fleet: Fleet, seed: int) -> None:
    before = await fleet.look()
    for _step in range(STEPS):
        was_gone, writes = fleet.gone(before), fleet.writes
        await fleet.step()
        after = await fleet.look() if fleet.writes > writes else before
        gone = fleet.gone(after)
        allowed = max(after.settings.max, len(was_gone))
        assert len(gone) <= allowed, f"seed {seed}: {sorted(gone)} are gone\n" + "\n".join(fleet.log)
        before = after
    if seed % SETTLED == 0:
        await fleet.settle()
