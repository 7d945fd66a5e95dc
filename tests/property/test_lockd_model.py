"""Exhaustive search: in no order of events are more hosts down than may be, and none is stuck.

The campaign's worlds take minutes and some gigabytes; each prints its number of states.
"""

from __future__ import annotations

import pytest

from lockd.tickets import Group, Phase, Ticket, may_go_down, may_take
from tests.support.campaign import scale
from tests.support.locksmith_model import Locksmith
from tests.support.model_search import Search
from tests.support.semaphore_model import Bounds, search

# with any number of writes under way, or with at most so many
SAMPLE = [
    Bounds(2, (1, 2)),
    Bounds(3, (1,)),
    Bounds(3, (1, 2), in_transit=1),
    Bounds(4, (2, 1), in_transit=0),
    Bounds(5, (2, 1), in_transit=0),
]
CAMPAIGN = [Bounds(3, (1, 2)), Bounds(4, (2, 1), in_transit=2), Bounds(5, (2, 1), in_transit=1)]
WORLDS = SAMPLE + CAMPAIGN[: scale(0, len(CAMPAIGN))]


@pytest.mark.parametrize("bounds", WORLDS, ids=str)
@pytest.mark.timeout(scale(300, 7200))
def test_never_too_many_down_and_never_stuck(bounds: Bounds, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is lost, late, repeated, cut, crashed, unlocked or resized: at most max are down, all come to rest."""
    found = search(bounds)
    with capsys.disabled():
        print(f"\n{bounds.hosts} hosts, max {bounds.limits}, {bounds.in_transit} in transit: {found.states:,} states")
    assert found.unsafe is None, "\n".join(found.unsafe)
    assert found.stuck == 0, found.stuck_trace
    assert found.states > 10_000


# ---- the same search finds what is wrong with other designs and other rules


def test_search_finds_the_fault_of_a_lock_with_a_lease() -> None:
    """A slot that expires while its host is down lets one too many go down: the search shows how."""
    found = search(Bounds(2, (1,), in_transit=0, leases_on_holders=True))
    assert found.unsafe is not None
    assert any(name.startswith("its lease ends: max 1: want; down") for name in found.unsafe)


def test_search_finds_that_locksmith_rolls_on_over_unwell_hosts() -> None:
    """What unlocks as it starts, well or not, lets the next host go down after an unwell one, until all are unwell."""
    found = Search(Locksmith(3, 1)).run()
    assert found.unsafe is not None
    assert any(name.startswith("unlocks as it starts: max 1: idle; want; ill") for name in found.unsafe)


def test_search_finds_that_locksmith_locks_itself_out() -> None:
    """The lock isn't idempotent: after one lost answer its own slot stands in its way for good."""
    found = Search(Locksmith(3, 1, unhealthy=False)).run()
    assert found.unsafe is None
    assert found.stuck > 0
    assert found.stuck_trace is not None
    assert found.stuck_trace[-1].startswith("locks, and hears nothing of it")


def test_search_finds_the_fault_of_rank_alone() -> None:
    """Looking at the rank only, and not at who holds behind, fails when max is lowered: the search shows how."""

    def rank_only(group: Group, ticket: Ticket) -> bool:
        return group.settings.pause is None and group.rank(ticket) < group.settings.max

    found = search(Bounds(3, (2, 1), in_transit=0), rank_only, rank_only)
    assert found.unsafe is not None
    assert any(name.startswith("set-max") for name in found.unsafe)


def test_search_finds_the_fault_of_not_looking_again() -> None:
    """A holder that goes down without counting the others fails when max was lowered since it took its slot."""

    def holders_go(group: Group, ticket: Ticket) -> bool:
        return group.settings.pause is None and ticket.holds

    assert search(Bounds(2, (2, 1), in_transit=0), may_take, holders_go).unsafe is not None


def test_search_finds_the_fault_of_a_second_attempt_for_free() -> None:
    """A host that rolled back and goes again without counting the others fails when max was lowered meanwhile."""

    def rolled_back_go(group: Group, ticket: Ticket) -> bool:
        again = ticket.claim.phase is Phase.ROLLED_BACK and group.settings.pause is None
        return again or may_go_down(group, ticket)

    found = search(Bounds(2, (1, 2), in_transit=0), may_take, rolled_back_go)
    assert found.unsafe is not None
    assert any(name.startswith("comes back ill from a crash") for name in found.unsafe)
