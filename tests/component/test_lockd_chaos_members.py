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
    for number in range(ROUNDS):
        dice = random.Random(number)
        made = Round(cluster.endpoints, f"round-{number}", dice, hosts=HOSTS, limit=dice.choice((1, 2, 3, 5)))
        await asyncio.gather(break_members(cluster, made, dice, BREAKS), made.run(PATIENCE_SECS))
        assert made.failures > 0, "etcd failed nobody: nothing was tried"
        assert made.problems == [], f"round {number}"
        assert len(made.done) == HOSTS
        failures += made.failures
        if (number + 1) % 25 == 0:
            with capsys.disabled():
                print(f"\n{number + 1} rounds, {failures} requests that a member failed")
