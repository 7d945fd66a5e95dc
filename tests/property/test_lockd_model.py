"""Exhaustive search: in no order of events are more hosts down than may be, and none is stuck."""

from __future__ import annotations

import pytest

from lockd.tickets import Group, Ticket
from tests.support.campaign import scale
from tests.support.semaphore_model import Bounds, search

SAMPLE = [Bounds(2, (1,), in_transit=2), Bounds(3, (1,)), Bounds(3, (2, 1), in_transit=0)]
CAMPAIGN = [Bounds(3, (1,), in_transit=2), Bounds(4, (1,), in_transit=0), Bounds(4, (2,), in_transit=0)]
WORLDS = SAMPLE + CAMPAIGN[: scale(0, len(CAMPAIGN))]


@pytest.mark.parametrize("bounds", WORLDS, ids=str)
def test_never_too_many_down_and_never_stuck(bounds: Bounds) -> None:
    """Whatever is lost, late, repeated, cut or resized: at most max are down, and everybody can come to rest."""
    found = search(bounds)
    assert found.unsafe is None
    assert found.stuck == 0
    assert found.states > 100


def test_search_finds_the_fault_of_a_lock_with_a_lease() -> None:
    """A slot that expires while its host is down lets one too many go down: the search shows how."""
    assert search(Bounds(2, (1,), leases_on_holders=True)).unsafe is not None


def test_search_finds_the_fault_of_rank_alone() -> None:
    """Looking at the rank only, and not at who holds behind, fails when max is lowered: the search shows how."""

    def rank_only(group: Group, ticket: Ticket) -> bool:
        return group.rank(ticket) < group.settings.max

    found = search(Bounds(3, (2, 1), in_transit=0), rank_only, rank_only)
    assert found.unsafe is not None
    assert any(name.startswith("set-max") for name in found.unsafe)
