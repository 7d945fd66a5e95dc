"""The agent's state machine, as a table (pure).

Everything about transitions is here and nothing else is: `TABLE` maps a state and an event to the next state and the
effects to perform, in order. The loop performs effects and posts their outcomes as events. `draw` writes the table as
a diagram; docs/state-machine.md holds it.

Stimuli (a timer, a person, a report that reached the server late) may come at any time: where the table doesn't list
one, it is dropped, and `accepts` lets the D-Bus side tell the person. An outcome that isn't listed is a bug of ours
and raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Where the agent is; the value is what `status` shows."""

    STARTING = "starting"
    CONFIRMING = "confirming"  # the health gate judges this boot
    UNHEALTHY = "unhealthy"  # it failed, and there is no other slot to fall back to
    FALLING_BACK = "falling-back"  # a trial boot failed: the reboot that lets the boot loader fall back is on its way
    IDLE = "idle"
    CHECKING = "checking"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    FINALIZING = "finalizing"
    NEED_REBOOT = "need-reboot"
    REPORTING_ERROR = "reporting-error"


class Event(Enum):
    """What may happen."""

    # found at start-up
    BOOT_JUDGED = "boot-judged"  # an earlier run of the agent confirmed this boot
    BOOT_UNJUDGED = "boot-unjudged"
    SLOT_ARMED = "slot-armed"  # an earlier run installed in this boot
    # stimuli
    CHECK_DUE = "check-due"
    ASKED_CHECK = "asked-check"
    ASKED_UPDATE = "asked-update"
    ASKED_APPLY = "asked-apply"
    ASKED_ROLLBACK = "asked-rollback"
    ASKED_RESET = "asked-reset"
    # outcomes of effects; the two of a bad trial are found at start-up too, when the reboot after it hasn't come
    HEALTHY = "healthy"
    UNHEALTHY_TRIAL = "unhealthy-trial"  # the boot loader may try the slot again
    LOST_TRIAL = "lost-trial"  # it has been bad often enough
    GIVEN_UP = "given-up"
    GIVE_UP_FAILED = "give-up-failed"
    UNHEALTHY_BOOT = "unhealthy-boot"
    NO_UPDATE = "no-update"
    OFFER_NOTED = "offer-noted"  # a check that was only to look found a release
    OFFER_TAKEN = "offer-taken"
    OFFER_DEFERRED = "offer-deferred"  # its payload failed here and is left alone for a while
    CHECK_FAILED = "check-failed"
    DOWNLOADED = "downloaded"
    VERIFIED = "verified"
    ARMED = "armed"
    INSTALL_FAILED = "install-failed"
    ROLLBACK_FAILED = "rollback-failed"
    REPORTED = "reported"
    FALL_BACK_FAILED = "fall-back-failed"
    DISARMED = "disarmed"
    DISARM_FAILED = "disarm-failed"


STIMULI = frozenset(
    {
        Event.CHECK_DUE,
        Event.ASKED_CHECK,
        Event.ASKED_UPDATE,
        Event.ASKED_APPLY,
        Event.ASKED_ROLLBACK,
        Event.ASKED_RESET,
        Event.REPORTED,
    }
)


class Effect(Enum):
    """What the loop does on a transition."""

    JUDGE_HEALTH = "judge health, confirm slot"
    GIVE_UP = "spend the slot's tries"
    FALL_BACK = "reboot to fall back"
    CHECK = "check"
    CHECK_AND_INSTALL = "check, then install"
    INSTALL = "install"
    INSTALL_BY_HAND = "install what was given"
    ARM = "arm slot"
    ROLL_BACK = "arm the old slot"
    DISARM = "un-mark slot"
    FORGET = "forget failures"
    NOTE_ERROR = "note error"
    REPORT = "report to server"
    PING = "ping server"
    SCHEDULE = "schedule check"


@dataclass(frozen=True, slots=True)
class Transition:
    """Where an event leads, and what to do on the way."""

    to: State
    effects: tuple[Effect, ...] = ()


class UnexpectedEventError(Exception):
    """An outcome arrived in a state that can't produce it: a bug in the loop."""


def _failed(state: State) -> dict[tuple[State, Event], Transition]:
    effects = (Effect.NOTE_ERROR, Effect.REPORT)
    return {(state, Event.INSTALL_FAILED): Transition(State.REPORTING_ERROR, effects)}


TABLE: dict[tuple[State, Event], Transition] = {
    (State.STARTING, Event.BOOT_JUDGED): Transition(State.IDLE, (Effect.SCHEDULE,)),
    (State.STARTING, Event.BOOT_UNJUDGED): Transition(State.CONFIRMING, (Effect.JUDGE_HEALTH,)),
    (State.STARTING, Event.UNHEALTHY_TRIAL): Transition(State.FALLING_BACK, (Effect.FALL_BACK, Effect.SCHEDULE)),
    (State.STARTING, Event.LOST_TRIAL): Transition(State.FALLING_BACK, (Effect.GIVE_UP, Effect.SCHEDULE)),
    (State.STARTING, Event.SLOT_ARMED): Transition(State.NEED_REBOOT, (Effect.SCHEDULE,)),
    (State.CONFIRMING, Event.HEALTHY): Transition(State.IDLE, (Effect.REPORT, Effect.SCHEDULE)),
    (State.CONFIRMING, Event.UNHEALTHY_TRIAL): Transition(
        State.FALLING_BACK, (Effect.NOTE_ERROR, Effect.FALL_BACK, Effect.SCHEDULE)
    ),
    (State.CONFIRMING, Event.LOST_TRIAL): Transition(
        State.FALLING_BACK, (Effect.NOTE_ERROR, Effect.GIVE_UP, Effect.SCHEDULE)
    ),
    (State.CONFIRMING, Event.UNHEALTHY_BOOT): Transition(State.UNHEALTHY, (Effect.NOTE_ERROR, Effect.SCHEDULE)),
    (State.FALLING_BACK, Event.GIVEN_UP): Transition(State.FALLING_BACK, (Effect.FALL_BACK,)),
    (State.FALLING_BACK, Event.GIVE_UP_FAILED): Transition(State.UNHEALTHY, (Effect.NOTE_ERROR, Effect.SCHEDULE)),
    (State.FALLING_BACK, Event.FALL_BACK_FAILED): Transition(State.FALLING_BACK, (Effect.NOTE_ERROR, Effect.SCHEDULE)),
    (State.FALLING_BACK, Event.CHECK_DUE): Transition(State.FALLING_BACK, (Effect.FALL_BACK, Effect.SCHEDULE)),
    (State.UNHEALTHY, Event.CHECK_DUE): Transition(State.CONFIRMING, (Effect.JUDGE_HEALTH,)),
    (State.UNHEALTHY, Event.ASKED_CHECK): Transition(State.CONFIRMING, (Effect.JUDGE_HEALTH,)),
    (State.IDLE, Event.CHECK_DUE): Transition(State.CHECKING, (Effect.CHECK_AND_INSTALL,)),
    (State.IDLE, Event.ASKED_UPDATE): Transition(State.CHECKING, (Effect.CHECK_AND_INSTALL,)),
    (State.IDLE, Event.ASKED_CHECK): Transition(State.CHECKING, (Effect.CHECK,)),
    (State.IDLE, Event.ASKED_APPLY): Transition(State.DOWNLOADING, (Effect.INSTALL_BY_HAND,)),
    (State.IDLE, Event.ASKED_ROLLBACK): Transition(State.FINALIZING, (Effect.ROLL_BACK,)),
    (State.IDLE, Event.ASKED_RESET): Transition(State.IDLE, (Effect.FORGET, Effect.SCHEDULE)),
    (State.CHECKING, Event.NO_UPDATE): Transition(State.IDLE, (Effect.SCHEDULE,)),
    (State.CHECKING, Event.OFFER_NOTED): Transition(State.IDLE, (Effect.SCHEDULE,)),
    (State.CHECKING, Event.OFFER_DEFERRED): Transition(State.IDLE, (Effect.REPORT, Effect.SCHEDULE)),
    (State.CHECKING, Event.OFFER_TAKEN): Transition(State.DOWNLOADING, (Effect.REPORT, Effect.INSTALL)),
    (State.CHECKING, Event.CHECK_FAILED): Transition(State.IDLE, (Effect.NOTE_ERROR, Effect.SCHEDULE)),
    (State.DOWNLOADING, Event.DOWNLOADED): Transition(State.VERIFYING),
    (State.VERIFYING, Event.VERIFIED): Transition(State.FINALIZING, (Effect.REPORT, Effect.ARM)),
    (State.FINALIZING, Event.ARMED): Transition(State.NEED_REBOOT, (Effect.REPORT, Effect.SCHEDULE)),
    (State.FINALIZING, Event.ROLLBACK_FAILED): Transition(State.IDLE, (Effect.NOTE_ERROR, Effect.SCHEDULE)),
    **_failed(State.DOWNLOADING),
    **_failed(State.VERIFYING),
    **_failed(State.FINALIZING),
    (State.REPORTING_ERROR, Event.REPORTED): Transition(State.IDLE, (Effect.SCHEDULE,)),
    (State.NEED_REBOOT, Event.CHECK_DUE): Transition(State.NEED_REBOOT, (Effect.PING, Effect.SCHEDULE)),
    (State.NEED_REBOOT, Event.ASKED_RESET): Transition(State.NEED_REBOOT, (Effect.DISARM,)),
    (State.NEED_REBOOT, Event.DISARMED): Transition(State.IDLE, (Effect.FORGET, Effect.SCHEDULE)),
    (State.NEED_REBOOT, Event.DISARM_FAILED): Transition(State.NEED_REBOOT, (Effect.NOTE_ERROR,)),
}


def accepts(state: State, event: Event) -> bool:
    """Tell whether a stimulus means anything in this state."""
    return (state, event) in TABLE


def step(state: State, event: Event) -> Transition | None:
    """Return where `event` leads from `state`; None for a stimulus that this state drops.

    Raises:
        UnexpectedEventError: an outcome that this state can't produce.
    """
    found = TABLE.get((state, event))
    if found is None and event not in STIMULI:
        raise UnexpectedEventError(f"{event.value} in {state.value}")
    return found


def draw() -> str:
    """Return the table as a Mermaid state diagram, one line a transition, in the table's order."""
    lines = ["stateDiagram-v2", "    [*] --> starting"]
    for (state, event), transition in TABLE.items():
        label = event.value
        if transition.effects:
            label += " / " + ", ".join(effect.value for effect in transition.effects)
        lines.append(f"    {state.value} --> {transition.to.value}: {label}")
    return "\n".join(lines) + "\n"
