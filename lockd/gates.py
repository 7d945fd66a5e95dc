"""What stands between this host and its reboot, gate by gate, in order (pure: facts in, gates out).

need -> strategy -> blockers -> window -> ticket. A gate behind a closed one isn't looked at, for asking has a price
(a ticket is a slot that somebody else can't have). A fact that couldn't be found out closes its gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from lockd.windows import Outlook, secs_left

STRATEGIES = ("off", "reboot", "local", "etcd", "fleetlock")
HOST = "the administrator of this host"
WITH_TICKETS = ("local", "etcd", "fleetlock")


class State(Enum):
    """How a gate stands."""

    OPEN = "open"
    CLOSED = "closed"
    NOT_ASKED = "not-asked"


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: why it stands as it does, and what would open it (`ends_at`: when that happens by itself)."""

    gate: str
    state: State
    reason: str
    ends: str = ""
    ends_at: datetime | None = None
    who: str = ""  # can end it


@dataclass(frozen=True, slots=True)
class Need:
    """Whether a reboot is wanted at all; `known` is False when the update agent can't be asked."""

    known: bool
    wanted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Blocker:
    """Something local that holds the reboot back."""

    name: str
    reason: str
    ends: str
    who: str = "the administrator of this host"
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TicketStand:
    """How the semaphore stands for this host; `reason` and `ends` are for people."""

    granted: bool
    reason: str
    ends: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the gates look at; `ticket` is None as long as nobody asked the store."""

    now: datetime
    need: Need
    strategy: str
    blockers: tuple[Blocker, ...]
    outlook: Outlook
    min_remaining_secs: float
    ticket: TicketStand | None
    turn: datetime | None = None  # of this host, in the window that is open; None: at once
    settings_problem: str = ""  # why nothing may be decided by the settings in force


def look(facts: Facts) -> tuple[Gate, ...]:
    """Return every gate in order; those behind the first closed one are `NOT_ASKED`."""
    gates: list[Gate] = []
    for check in (_need, strategy_gate, blockers_gate, window_gate, _ticket):
        gate = check(facts)
        if gates and gates[-1].state is not State.OPEN:
            gate = Gate(gate.gate, State.NOT_ASKED, "an earlier gate is closed")
        gates.append(gate)
    return tuple(gates)


def closed_gate(gates: tuple[Gate, ...]) -> Gate | None:
    """Return the gate that blocks; None when all are open."""
    return next((gate for gate in gates if gate.state is not State.OPEN), None)


def may_ask_for_ticket(facts: Facts) -> bool:
    """Tell whether all gates before the ticket are open."""
    return all(check(facts).state is State.OPEN for check in (_need, strategy_gate, blockers_gate, window_gate))


def _need(facts: Facts) -> Gate:
    need = facts.need
    if not need.known:
        return Gate("need", State.CLOSED, need.reason, "the update agent answers: `systemctl status updated`", who=HOST)
    if not need.wanted:
        return Gate(
            "need", State.CLOSED, need.reason, "an update is installed, or somebody runs `lockctl reboot`", who=HOST
        )
    return Gate("need", State.OPEN, need.reason)


def strategy_gate(facts: Facts) -> Gate:
    """Tell how the strategy gate stands."""
    if facts.settings_problem:
        ends = "they are corrected: lockd reads them again when they change, and at `systemctl reload lockd`"
        return Gate("strategy", State.CLOSED, facts.settings_problem, ends, who=HOST)
    if facts.strategy == "off":
        return Gate(
            "strategy",
            State.CLOSED,
            "the policy says that lockd never reboots",
            "`strategy` in lockd.toml is changed",
            who=HOST,
        )
    if facts.strategy not in STRATEGIES:
        return Gate(
            "strategy", State.CLOSED, f"nobody knows a strategy {facts.strategy!r}", "lockd.toml is corrected", who=HOST
        )
    return Gate("strategy", State.OPEN, f"strategy {facts.strategy}")


def blockers_gate(facts: Facts) -> Gate:
    """Tell how the blockers gate stands."""
    if not facts.blockers:
        return Gate("blockers", State.OPEN, "nothing on this host holds the reboot back")
    names = "; ".join(f"{blocker.name}: {blocker.reason}" for blocker in facts.blockers)
    ends_at = [blocker.ends_at for blocker in facts.blockers]
    known = [moment for moment in ends_at if moment is not None]
    return Gate(
        "blockers", State.CLOSED, names, "; ".join(blocker.ends for blocker in facts.blockers),
        ends_at=max(known) if len(known) == len(ends_at) else None,
        who="; ".join(dict.fromkeys(blocker.who for blocker in facts.blockers)),
    )  # fmt: skip


def window_gate(facts: Facts) -> Gate:
    """Tell how the window gate stands."""
    outlook = facts.outlook
    if not outlook.open:
        return _closed_window("outside every reboot window", outlook.next_open)
    left = secs_left(outlook, facts.now)
    if facts.turn is not None and facts.now < facts.turn:
        reason = f"the window is open, and this host's turn in it comes at {facts.turn:%Y-%m-%dT%H:%M:%SZ}"
        return Gate(
            "window", State.CLOSED, reason, "its turn comes, or somebody runs `lockctl reboot`", facts.turn, HOST
        )
    if left is None:
        return Gate("window", State.OPEN, "no window ends soon")
    if left < facts.min_remaining_secs:
        reason = f"the window closes in {left:.0f} s, and a reboot is allowed {facts.min_remaining_secs:.0f} s or more"
        return _closed_window(f"{reason} before", outlook.next_open)
    return Gate("window", State.OPEN, f"the window is open for another {left:.0f} s", ends_at=outlook.until)


def _closed_window(reason: str, next_open: datetime | None) -> Gate:
    if next_open is None:
        return Gate("window", State.CLOSED, reason, "the windows in lockd.toml or the clock are corrected", who=HOST)
    ends = f"the next window opens at {next_open:%Y-%m-%dT%H:%M:%SZ}"
    return Gate("window", State.CLOSED, reason, ends, next_open, "nobody but the clock; the windows are in lockd.toml")


def _ticket(facts: Facts) -> Gate:
    if facts.strategy not in WITH_TICKETS:
        return Gate("ticket", State.OPEN, f"strategy {facts.strategy} needs no ticket")
    stand = facts.ticket
    if stand is None:
        return Gate("ticket", State.NOT_ASKED, "not asked for yet")
    state, who = (State.OPEN, "") if stand.granted else (State.CLOSED, "the holders, or who operates the group")
    return Gate("ticket", state, stand.reason, stand.ends, who=who)
