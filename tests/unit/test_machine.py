"""The agent's state machine: the table, its drawing, and what it must never allow."""

from __future__ import annotations

from pathlib import Path

import pytest

from updated.agent.machine import STIMULI, TABLE, Effect, Event, State, UnexpectedEventError, accepts, draw, step

DRAWING = Path(__file__).parents[2] / "docs/state-machine.md"


def test_drawing_in_docs_is_the_table() -> None:
    """docs/state-machine.md shows the machine as it is; `python -m tests.support.drawing` writes it anew."""
    assert draw() in DRAWING.read_text()


def test_every_state_can_be_reached() -> None:
    """No state is dead."""
    seen, edge = {State.STARTING}, [State.STARTING]
    while edge:
        state = edge.pop()
        for (source, _), transition in TABLE.items():
            if source is state and transition.to not in seen:
                seen.add(transition.to)
                edge.append(transition.to)
    assert seen == set(State)


def test_every_state_can_be_left() -> None:
    """No state is a trap: each has a transition out of it."""
    leaving = {source for (source, _), transition in TABLE.items() if transition.to is not source}
    assert leaving == set(State)


def test_falling_back_ends_by_the_reboot_or_where_it_would_lead_nowhere() -> None:
    """A host that falls back does nothing else; only when its slot's tries can't be spent is it judged anew."""
    here = State.FALLING_BACK
    leading = {event for (source, event), way in TABLE.items() if source is here and way.to is not here}
    assert leading == {Event.GIVE_UP_FAILED}


def test_arming_happens_only_after_verification() -> None:
    """The one way to the effect that arms a slot leads through `verified`."""
    ways = [key for key, transition in TABLE.items() if Effect.ARM in transition.effects]
    assert ways == [(State.VERIFYING, Event.VERIFIED)]


@pytest.mark.parametrize(
    ("effect", "way"),
    [
        (Effect.INSTALL, (State.CHECKING, Event.OFFER_TAKEN)),
        (Effect.INSTALL_BY_HAND, (State.IDLE, Event.ASKED_APPLY)),
        (Effect.ROLL_BACK, (State.IDLE, Event.ASKED_ROLLBACK)),
    ],
)
def test_one_way_leads_to_each_effect_that_changes_a_slot(effect: Effect, way: tuple[State, Event]) -> None:
    """A slot is changed after a check that took an offer, or because a person says so while the host is at rest."""
    assert [key for key, transition in TABLE.items() if effect in transition.effects] == [way]


@pytest.mark.parametrize("state", [State.CONFIRMING, State.UNHEALTHY, State.FALLING_BACK, State.NEED_REBOOT])
def test_no_install_begins_in_an_unproven_or_armed_state(state: State) -> None:
    """Neither a person nor a timer starts an install while a boot is unproven or a slot is armed."""
    beginnings = {Effect.CHECK_AND_INSTALL, Effect.INSTALL_BY_HAND, Effect.ROLL_BACK}
    for event in STIMULI:
        transition = step(state, event)
        assert transition is None or not beginnings & set(transition.effects)


def test_stimuli_are_dropped_where_they_mean_nothing() -> None:
    """A timer that fires during a download changes nothing."""
    assert step(State.DOWNLOADING, Event.CHECK_DUE) is None
    assert not accepts(State.DOWNLOADING, Event.ASKED_UPDATE)


def test_impossible_outcomes_raise() -> None:
    """An outcome that a state can't produce is a bug and is never ignored."""
    for state in State:
        for event in set(Event) - STIMULI:
            if (state, event) not in TABLE:
                with pytest.raises(UnexpectedEventError):
                    step(state, event)
