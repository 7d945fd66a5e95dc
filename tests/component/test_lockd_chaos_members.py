"""Three etcd members are killed, paused and started again while a fleet reboots through the queue."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.support.campaign import scale
from tests.support.etcd_cluster import Cluster
from tests.support.fleet_round import Round, break_members

ROUNDS = scale(10, 200)
TOGETHER = 5  # rounds at a time, each in a group of its own: most of the time they wait for elections
HOSTS = 20
BREAKS = 4  # in a round; then the cluster is whole again, and everybody must come through
PATIENCE_SECS = 900.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.mark.timeout(scale(600, 4 * 3600))
async def test_fleet_reboots_in_order_while_members_fail(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Never more than max at once, nobody starves, and nobody goes before his turn, whichever member fails when."""
    failures = 0
    for first in range(0, ROUNDS, TOGETHER):
        rounds = [make_round(cluster, number) for number in range(first, first + TOGETHER)]
        breaking = break_members(cluster, rounds, random.Random(first), BREAKS)
        await asyncio.gather(breaking, *(made.run(PATIENCE_SECS) for made in rounds))
        for number, made in enumerate(rounds, first):
            assert made.failures > 0, "etcd failed nobody: nothing was tried"
            assert made.problems == [], f"round {number}"
            assert len(made.done) == HOSTS
            failures += made.failures
        if (first + TOGETHER) % 25 == 0:
            with capsys.disabled():
                print(f"\n{first + TOGETHER} rounds, {failures} requests that a member failed")


def make_round(cluster: Cluster, number: int) -> Round:
    dice = random.Random(number)
    return Round(cluster.endpoints, f"round-{number}", dice, hosts=HOSTS, limit=dice.choice((1, 2, 3, 5)))
