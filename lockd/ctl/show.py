"""Turns lockd's documents into lines for people (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lockd.tickets import Phase, printable
from updated.common import cli

Document = Mapping[str, Any]
REMOVE = "A damaged ticket holds a slot. Once its machine is known to be up: lockctl unlock ID --force --reason WHY"
UNLOCKS = 5  # how many `status` shows to people; --json has all


def table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Lay out rows; what others wrote does nothing to the terminal."""
    return cli.table([[printable(cell) for cell in row] for row in rows], header)


def group_lines(document: Document) -> str:
    """Lay out the semaphore: how many, who holds, who waits, what holds them back."""
    share = f" ({document['percent']}% of {document['known']} machines known)" if document["percent"] else ""
    rows = [
        ("group", document["group"]),
        ("max", f"{document['max']}{share}"),
        ("available", str(document["available"])),
        ("holders", str(len(document["holders"]))),
        ("waiting", str(len(document["waiting"]))),
        *_policy_rows(document),
    ]
    lines = [table(rows)]
    if document["holders"] or document["waiting"]:
        lines += ["", _ticket_lines([*document["holders"], *document["waiting"]])]
    if any(ticket["phase"] == Phase.DAMAGED.value for ticket in document["holders"]):
        lines += ["", REMOVE]
    if document["unlocks"]:
        lines += ["", unlock_lines(document["unlocks"])]
    return "\n".join(lines)


def _policy_rows(document: Document) -> list[tuple[str, str]]:
    rows, paused = [], document["paused"]
    if document["overdue"] or document["overdue_budget"]:
        budget = document["overdue_budget"]
        rows.append(("overdue", f"{document['overdue']}{f', at {budget} nobody reboots' if budget else ''}"))
    if document["min_interval_secs"]:
        recent = f", not over since {document['recent']}" if document["recent"] else ""
        rows.append(("interval", f"{document['min_interval_secs']} s between two grants{recent}"))
    if paused:
        rows.append(("paused", f"by {paused['by']} since {paused['at']}: {paused['reason']}"))
    return rows


def _ticket_lines(tickets: Sequence[Document]) -> str:
    """Lay out tickets in the order of the queue."""
    rows = [
        (str(ticket["rank"]), ticket["id"], ticket["host"] or "-", _phase(ticket), ticket["since"] or "-",
         ticket["version_to"] or "-", ticket["detail"] or "")
        for ticket in sorted(tickets, key=lambda ticket: int(ticket["rank"]))
    ]  # fmt: skip
    return table(rows, ("RANK", "MACHINE", "HOST", "PHASE", "SINCE", "VERSION", "DETAIL"))


def unlock_lines(unlocks: Sequence[Document]) -> str:
    """Lay out the latest records of forced unlocks."""
    rows = [
        (one["at"], one["id"], phase_since(one["phase"], one["since"]), one["by"], one["reason"]) for one in unlocks
    ]
    return table(rows[:UNLOCKS], ("UNLOCKED AT", "MACHINE", "WAS", "BY", "WHY"))


def phase_since(phase: str, since: str | None) -> str:
    """Say in which phase a ticket was, and since when if that is known."""
    return f"{phase} since {since}" if since else phase


def machines_lines(machines: Sequence[Document]) -> str:
    """Lay out the fleet: tickets in the order of the queue, then who has none."""
    if not machines:
        return "No machine is known, holds or waits."
    rows = [
        (
            "-" if one["rank"] is None else str(one["rank"]), one["id"], one["host"] or "-", _phase(one),
            one["since"] or "-", one["version"] or "-", one["slot"] or "-", one["state"] or "-", _seen(one),
            one["detail"] or "",
        )
        for one in machines
    ]  # fmt: skip
    header = ("RANK", "MACHINE", "HOST", "PHASE", "SINCE", "VERSION", "SLOT", "STATE", "SEEN", "DETAIL")
    return table(rows, header)


def _phase(ticket: Document) -> str:
    return (ticket["phase"] or "-") + (" (overdue)" if ticket["overdue"] else "")


def _seen(machine: Document) -> str:
    return "up" if machine["up"] else machine["seen"] or "-"


def gates_lines(gates: Sequence[Document]) -> str:
    """Lay out the chain of gates, with what ends the one that blocks."""
    if not gates:
        return "lockd hasn't looked yet; ask again in a moment."
    lines = [table([(gate["gate"], gate["state"], gate["reason"]) for gate in gates], ("GATE", "STATE", "WHY"))]
    blocked = blocking(gates)
    if blocked is None:
        lines.append("Nothing holds the reboot back.")
    elif blocked["ends"]:
        lines.append(f"The {blocked['gate']} gate opens when: {blocked['ends']}")
        lines += [f"Who can open it: {blocked['who']}"] if blocked.get("who") else []
        lines += [f"By itself it opens at {blocked['ends_at']}"] if blocked["ends_at"] else []
    return "\n".join(lines)


def blocking(gates: Sequence[Document]) -> Document | None:
    """Return the first gate that isn't open."""
    return next((gate for gate in gates if gate["state"] != "open"), None)


def window_lines(document: Document, openings: Sequence[tuple[str, str]]) -> str:
    """Say how the windows stand, and list the next ones."""
    if document["open"]:
        until = document["until"] or "no end in sight"
        lines = [f"open (since {document['since'] or 'always'}, until {until})"]
    else:
        lines = [f"closed (the next window opens at {document['next_open'] or 'no time to come'})"]
    if openings:
        lines += ["", table(openings, ("OPENS", "CLOSES"))]
    return "\n".join(lines)
