"""Three etcd members are killed, paused and started again while a fleet reboots through the queue."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest

from tests.support.campaign import scale
from tests.support.etcd_cluster import Cluster
from tests.support.fleet_round import Round, break_members

ROUNDS = scale(10, 200)
HOSTS = 20
PATIENCE_SECS = 120.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.mark.timeout(scale(600, 4 * 3600))
async def test_fleet_reboots_in_order_while_members_fail(cluster: Cluster) -> None:
    """Never more than max at once, nobody starves, and nobody goes before his turn, whichever member fails when."""
    failures = 0
    for number in range(ROUNDS):
        dice = random.Random(number)
        made = Round(cluster.endpoints, f"round-{number}", dice, hosts=HOSTS, limit=dice.choice((1, 2, 3, 5)))
        breaking = asyncio.create_task(break_members(cluster, dice))
        try:
            await made.run(PATIENCE_SECS)
        finally:
            breaking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await breaking
            await asyncio.to_thread(cluster.heal)
        assert made.problems == [], f"round {number}"
        assert len(made.done) == HOSTS
        failures += made.failures
    assert failures > ROUNDS, "etcd hardly ever failed: nothing was tried"
