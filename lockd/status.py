"""What lockd tells about itself: the status document and the chain of gates (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lockd.gates import Gate, State, TicketStand, closed_gate
from lockd.machines import Known, Machine
from lockd.semaphore import Standing
from lockd.tickets import Group, Phase, Ticket, Unlock, is_overdue, occupied_for
from lockd.windows import Outlook
from updated.common.clock import rfc3339
from updated.common.errors import OperatorError


@dataclass(slots=True)
class View:
    """What the coordinator knows at this moment; times are RFC 3339."""

    strategy: str
    group_name: str
    machine_id: str
    boot_id: str
    state: str = "starting"
    asked: bool = False  # a human asked for a reboot
    gates: tuple[Gate, ...] = ()
    group: Group | None = None
    outlook: Outlook | None = None
    last_error: dict[str, Any] | None = None
    version: str = ""  # that this host runs, from which slot
    slot: str = ""
    steps: int = field(default=0)  # looks so far


def status_document(view: View) -> dict[str, Any]:
    """Return `Status`: this host's side of the semaphore."""
    own = view.group.of(view.machine_id) if view.group else None
    blocked = closed_gate(view.gates)
    return {
        "state": view.state,
        "strategy": view.strategy,
        "group": view.group_name,
        "machine_id": view.machine_id,
        "boot_id": view.boot_id,
        "asked": view.asked,
        "blocked_by": f"{blocked.gate}: {blocked.reason}" if blocked else None,
        "ticket": ticket_document(view.group, own, now=None) if view.group and own else None,
        "window": window_document(view.outlook) if view.outlook else None,
        "last_error": view.last_error,
    }


def explain_document(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """Return `Explain`: every gate in order, with what would open it."""
    return [
        {
            "gate": gate.gate,
            "state": gate.state.value,
            "reason": gate.reason,
            "ends": gate.ends,
            "ends_at": _text(gate.ends_at),
            "who": gate.who,
        }
        for gate in gates
    ]


def window_document(outlook: Outlook) -> dict[str, Any]:
    """Return what `lockctl windows --json` answers."""
    return {
        "open": outlook.open,
        "since": _text(outlook.since),
        "until": _text(outlook.until),
        "next_open": _text(outlook.next_open),
    }


def group_document(name: str, group: Group, now: datetime) -> dict[str, Any]:
    """Return `lockctl status --json`: the semaphore of a group."""
    settings, pause = group.settings, group.settings.pause
    return {
        "group": name,
        "max": settings.max,
        "percent": settings.percent or None,
        "known": settings.known if settings.percent else None,
        "available": max(settings.max - len(group.holders), 0),
        "min_interval_secs": settings.min_interval_secs,
        "recent": group.recent or None,
        "overdue_policy": "budget" if settings.overdue_budget else "hold",
        "overdue_budget": settings.overdue_budget or None,
        "overdue": sum(is_overdue(ticket, now) for ticket in group.holders),
        "paused": {"by": pause.by, "reason": pause.reason, "at": pause.at} if pause else None,
        "holders": [ticket_document(group, ticket, now) for ticket in group.holders],
        "waiting": [ticket_document(group, ticket, now) for ticket in group.waiting],
        "unlocks": [unlock_document(unlock) for unlock in group.unlocks],
    }


def unlock_document(unlock: Unlock) -> dict[str, Any]:
    """Return the record of a forced unlock."""
    return {
        "id": unlock.machine_id,
        "by": unlock.by,
        "reason": unlock.reason,
        "at": unlock.at,
        "phase": unlock.phase,
        "since": unlock.since or None,
    }


def machines_document(known: Sequence[Known], group: Group, now: datetime) -> list[dict[str, Any]]:
    """Return `lockctl machines --json`: who has a ticket in the order of the queue, then the others by their id."""
    registered = {one.machine.machine_id: one for one in known}
    queued = [
        _registered(registered.get(ticket.machine_id)) | ticket_document(group, ticket, now) for ticket in group.tickets
    ]
    others = [_NO_TICKET | _registered(one) for name, one in registered.items() if group.of(name) is None]
    return [*queued, *others]


def _registered(known: Known | None) -> dict[str, Any]:
    machine = known.machine if known else Machine("")
    return {
        "id": machine.machine_id,
        "host": machine.host,
        "version": machine.version or None,
        "slot": machine.slot or None,
        "state": machine.state or None,
        "seen": machine.seen or None,
        "up": known.up if known else None,
    }


def ticket_document(group: Group, ticket: Ticket, now: datetime | None) -> dict[str, Any]:
    """Return one ticket; `overdue` is None when `now` isn't given, `rank` when the look didn't reach that far."""
    claim = ticket.claim
    return {
        "id": claim.machine_id,
        "host": claim.host,
        "phase": claim.phase.value,
        "rank": group.rank(ticket) if group.sees(ticket) else None,
        "since": claim.since or None,
        "expected_back": claim.expected_back or None,
        "overdue": None if now is None else is_overdue(ticket, now),
        "boot_id": claim.boot_id,
        "version_from": claim.version_from or None,
        "version_to": claim.version_to or None,
        "detail": claim.detail or None,
    }


def error_document(error: OperatorError, at: datetime) -> dict[str, Any]:
    """Return `last_error`."""
    return {
        "code": int(error.code),
        "name": error.name,
        "message": error.message,
        "hint": error.hint,
        "at": rfc3339(at),
    }


def ticket_stand(standing: Standing) -> TicketStand:
    """Say in words how the semaphore stands for this host."""
    group, ticket = standing.group, standing.ticket
    pause, phase = group.settings.pause, ticket.claim.phase
    if pause is not None:
        reason = f"the group is paused by {pause.by} since {pause.at}: {pause.reason}"
        return TicketStand(False, reason, "`lockctl resume` ends the pause")
    if phase in (Phase.MANUAL, Phase.DAMAGED):
        reason = f"this host's ticket is {phase.value}: {ticket.claim.detail}"
        return TicketStand(False, reason, f"`lockctl unlock {ticket.machine_id} --force --reason WHY`")
    if standing.held_back:
        return TicketStand(False, standing.held_back, "time passes, or `lockctl status` shows what to repair")
    if standing.granted:
        return TicketStand(True, "this host has the slot")
    others = [other for other in group.holders if other.machine_id != ticket.machine_id]
    names = ", ".join(f"{other.machine_id} ({other.claim.phase.value})" for other in others[:5]) or "nobody"
    if ticket.holds:
        reason = f"max was lowered to {group.settings.max} after this host took its slot; held by {names}"
    else:
        ahead = f"{occupied_for(group, ticket)} ahead of this host"
        place = ahead if group.sees(ticket) else f"this host is far back among about {group.queued} that wait"
        reason = f"{place}, {group.settings.max} may be down at once; held by {names}"
    return TicketStand(False, reason, "a holder is back and healthy; `lockctl status` shows who is overdue")


def release_gate(ticket: Ticket, reason: str) -> Gate:
    """Return the gate of a host that still has the slot of its last reboot."""
    if ticket.claim.phase is Phase.ROLLED_BACK:
        ends = (
            f"the release is repaired; then `lockctl unlock {ticket.machine_id} --force --reason WHY` and "
            "`lockctl resume`"
        )
    else:
        ends = "the update agent confirms this boot: `update-ctl explain`"
    return Gate("release", State.CLOSED, reason, ends)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


_NO_TICKET: dict[str, Any] = dict.fromkeys(
    ("phase", "rank", "since", "expected_back", "overdue", "boot_id", "version_from", "version_to", "detail")
)
