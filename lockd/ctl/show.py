"""Turns lockd's documents into lines for people (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from updated.common.cli import table

Document = Mapping[str, Any]


def group_lines(document: Document) -> str:
    """Lay out the semaphore: how many, who holds, who waits."""
    rows = [
        ("group", document["group"]),
        ("max", str(document["max"])),
        ("available", str(document["available"])),
        ("holders", str(len(document["holders"]))),
        ("waiting", str(len(document["waiting"]))),
    ]
    paused = document["paused"]
    if paused:
        rows.append(("paused", f"by {paused['by']} since {paused['at']}: {paused['reason']}"))
    lines = [table(rows)]
    if document["holders"] or document["waiting"]:
        lines += ["", machines_lines(document)]
    return "\n".join(lines)


def machines_lines(document: Document) -> str:
    """Lay out every ticket in the order of the queue."""
    tickets = sorted([*document["holders"], *document["waiting"]], key=lambda ticket: ticket["rank"])
    if not tickets:
        return "No machine holds or waits."
    rows = [
        (
            str(ticket["rank"]),
            ticket["id"],
            ticket["host"] or "-",
            ticket["phase"] + (" (overdue)" if ticket["overdue"] else ""),
            ticket["since"] or "-",
            ticket["version_to"] or "-",
            ticket["detail"] or "",
        )
        for ticket in tickets
    ]
    return table(rows, ("RANK", "MACHINE", "HOST", "PHASE", "SINCE", "VERSION", "DETAIL"))


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
