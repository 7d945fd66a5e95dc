"""What it costs to grant a slot doesn't grow with the number of hosts that wait; the benchmark measures it at scale."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.bench.fleet_cas import run_cas
from tests.bench.fleet_tickets import Load, Tally, run_tickets
from tests.support.etcd import Etcd


@pytest.fixture
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.mark.parametrize(("waiters", "limit"), [(5, 1), (20, 1), (60, 3)])
async def test_slot_costs_the_same_whatever_the_number_that_wait(etcd: Etcd, waiters: int, limit: int) -> None:
    """Each slot takes at most ten requests, no comparison fails, and nobody goes out of turn."""
    tally = await run_tickets(etcd.endpoint, Load(waiters, limit, 120, down_secs=0.05), random.Random(1))
    assert tally.granted == waiters
    assert (tally.requests - tally.by_time) / waiters <= 10
    assert (tally.compare_failures, tally.inversions) == (0, 0)


async def test_the_baseline_is_what_it_is_known_for(etcd: Etcd) -> None:
    """The same fleet with one document and compare-and-swap loses races and serves out of turn: the count is real."""
    tally = await run_cas(etcd.endpoint, Load(30, 3, 120, down_secs=0.05), random.Random(1))
    assert isinstance(tally, Tally)
    assert tally.granted == 30
    assert tally.compare_failures > 0
    assert tally.inversions > 0
