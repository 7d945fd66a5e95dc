"""What lockd tells about itself: the status document and the chain of gates (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lockd.gates import Gate, State, TicketStand, closed_gate
from lockd.semaphore import Standing
from lockd.tickets import Group, Phase, Ticket, occupied_for
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
    pause = group.settings.pause
    return {
        "group": name,
        "max": group.settings.max,
        "available": max(group.settings.max - len(group.holders), 0),
        "paused": {"by": pause.by, "reason": pause.reason, "at": pause.at} if pause else None,
        "holders": [ticket_document(group, ticket, now) for ticket in group.holders],
        "waiting": [ticket_document(group, ticket, now) for ticket in group.waiting],
    }


def ticket_document(group: Group, ticket: Ticket, now: datetime | None) -> dict[str, Any]:
    """Return one ticket; `overdue` is None when `now` isn't given."""
    claim = ticket.claim
    return {
        "id": claim.machine_id,
        "host": claim.host,
        "phase": claim.phase.value,
        "rank": group.rank(ticket),
        "since": claim.since or None,
        "expected_back": claim.expected_back or None,
        "overdue": None if now is None else is_overdue(ticket, now),
        "boot_id": claim.boot_id,
        "version_from": claim.version_from or None,
        "version_to": claim.version_to or None,
        "detail": claim.detail or None,
    }


def is_overdue(ticket: Ticket, now: datetime) -> bool:
    """Tell whether a host has been down for longer than it expected."""
    if ticket.claim.phase not in (Phase.HELD, Phase.REBOOTING):
        return False
    try:
        expected = datetime.fromisoformat(ticket.claim.expected_back)
    except ValueError:
        return True  # nobody can say until when it is all right
    return expected.tzinfo is None or now > expected


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
        return TicketStand(False, reason, f"`lockctl unlock {ticket.machine_id} --force`")
    if standing.granted:
        return TicketStand(True, "this host has the slot")
    others = [other for other in group.holders if other.machine_id != ticket.machine_id]
    names = ", ".join(f"{other.machine_id} ({other.claim.phase.value})" for other in others[:5]) or "nobody"
    if ticket.holds:
        reason = f"max was lowered to {group.settings.max} after this host took its slot; held by {names}"
    else:
        ahead = occupied_for(group, ticket)
        reason = f"{ahead} ahead of this host, {group.settings.max} may be down at once; held by {names}"
    return TicketStand(False, reason, "a holder is back and healthy; `lockctl status` shows who is overdue")


def release_gate(ticket: Ticket, reason: str) -> Gate:
    """Return the gate of a host that still has the slot of its last reboot."""
    if ticket.claim.phase is Phase.ROLLED_BACK:
        ends = f"the release is repaired; then `lockctl unlock {ticket.machine_id} --force` and `lockctl resume`"
    else:
        ends = "the update agent confirms this boot: `update-ctl explain`"
    return Gate("release", State.CLOSED, reason, ends)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
