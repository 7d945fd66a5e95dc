"""The reboot semaphore as a queue of tickets: who may be down now (pure: values in, decisions out).

A group is one set of tickets, one key per host, and one settings document (how many may be down, is it paused). The
store numbers tickets in the order in which they were created (etcd's create_revision). The rule:

    A host may take a slot when fewer than `max` other tickets are ahead of it or hold a slot already.
    A holder may go down when fewer than `max` others may be down already or hold a slot ahead of it.

Why that is safe, however late the host acts on what it saw: taking and going down are each one conditional write that
requires the same ticket and the same settings (mod revisions). New tickets queue up behind, so those ahead only get
fewer; and a ticket behind that took a slot in between had counted this one as ahead of it. Hence the last in rank
of all who took under one `max` has counted everybody who can be down beside it. The second rule is for a `max` that is
lowered between the two writes: who holds and isn't down yet stays up until enough came back, first come first. A host
that rolled back counts the others too before its next attempt, while to them it counts as down.

A host needn't see the whole queue for that: its own ticket, whoever holds a slot, and the front of the queue will do
(`Group.horizon`). Beside the rule there are reasons for nobody to be granted a slot for now: `held_back`.

What a store returns is treated as hostile: every document is checked, and a ticket that can't be read counts as a
held slot, since it may be one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

MAX_LIMIT = 1000  # slots of one group
INTERVAL_LIMIT = 7 * 24 * 3600  # seconds between two grants
KNOWN_LIMIT = 1_000_000  # machines of one group
DOCUMENT_LIMIT = 64 * 1024  # bytes of a ticket or of the settings
TEXT_LIMIT = 512  # characters of any one text in a document
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # machine ids and groups: no separator, nothing to escape


class DamagedError(ValueError):
    """A document in the store isn't what it must be."""


class Phase(Enum):
    """How far a ticket's host has come."""

    WAITING = "waiting"  # in the queue; leaves it by itself when its host dies
    HELD = "held"  # has the slot; its host is up and about to reboot
    REBOOTING = "rebooting"  # its host was told to go down, or is down
    ROLLED_BACK = "rolled-back"  # its host came back with the old version, and keeps the slot
    MANUAL = "manual"  # taken by hand with `lockctl lock`; given back by hand
    DAMAGED = "damaged"  # can't be read


@dataclass(frozen=True, slots=True)
class Claim:
    """What a host writes into its ticket; times are RFC 3339."""

    machine_id: str
    phase: Phase
    boot_id: str
    host: str = ""
    version_from: str = ""
    version_to: str = ""
    since: str = ""  # when it entered this phase
    expected_back: str = ""
    detail: str = ""
    number: int = 0  # its place in the queue, once it has left the queue for a slot; 0 before


@dataclass(frozen=True, slots=True)
class Ticket:
    """A claim as the store has it."""

    claim: Claim
    create_revision: int  # its place in the queue
    mod_revision: int
    lease: int = 0  # 0: it never expires by itself
    in_queue: bool = False  # where the store has it, if it keeps the queue apart from the slots

    @property
    def machine_id(self) -> str:
        """Whose ticket it is."""
        return self.claim.machine_id

    @property
    def holds(self) -> bool:
        """Whether it occupies a slot."""
        return self.claim.phase is not Phase.WAITING


@dataclass(frozen=True, slots=True)
class Pause:
    """Nobody of the group is granted a slot until somebody resumes it."""

    by: str
    reason: str
    at: str  # RFC 3339


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """What holds for the whole group; `revision` 0 means that nobody has written any yet."""

    max: int = 1
    pause: Pause | None = None
    revision: int = 0
    percent: int = 0  # of the machines known, that `max` was made from; 0: it was set as a number
    known: int = 0  # how many machines were known then
    min_interval_secs: int = 0  # between two grants; 0: none
    overdue_budget: int = 0  # this many holders overdue, and nobody is granted; 0: they only keep their slots


@dataclass(frozen=True, slots=True)
class Unlock:
    """A record of a ticket that somebody took away by force."""

    machine_id: str
    by: str
    reason: str
    at: str  # RFC 3339
    phase: str  # that the ticket had, and since when
    since: str


@dataclass(frozen=True, slots=True)
class Group:
    """One consistent look at a group; tickets are in the order of the queue.

    A look may leave out what is behind `horizon`: then it has every holder, the looking host's own ticket, the waiter
    next ahead of that, and every waiter whose number isn't above the horizon. 0 means that nothing was left out.
    """

    settings: GroupSettings
    tickets: tuple[Ticket, ...]
    revision: int = 0
    horizon: int = 0
    queued: int = 0  # waiters, also those that were left out, as far as they were asked for
    recent: str = ""  # who was granted a slot less than the minimum interval ago
    unlocks: tuple[Unlock, ...] = ()  # latest first

    def sees(self, ticket: Ticket) -> bool:
        """Tell whether everybody ahead of a ticket is among `tickets`."""
        return not self.horizon or ticket.create_revision <= self.horizon

    def of(self, machine_id: str) -> Ticket | None:
        """Return a host's ticket."""
        return next((ticket for ticket in self.tickets if ticket.machine_id == machine_id), None)

    def replaced(self, ticket: Ticket) -> Group:
        """Return the group with this ticket in the place of the one that its host had."""
        tickets = tuple(ticket if other.machine_id == ticket.machine_id else other for other in self.tickets)
        return replace(self, tickets=tickets)

    def rank(self, ticket: Ticket) -> int:
        """Return how many tickets are ahead of this one; the least that it can be when it isn't seen."""
        return sum(other.create_revision < ticket.create_revision for other in self.tickets)

    @property
    def holders(self) -> tuple[Ticket, ...]:
        """Return the tickets that occupy a slot."""
        return tuple(ticket for ticket in self.tickets if ticket.holds)

    @property
    def waiting(self) -> tuple[Ticket, ...]:
        """Return the tickets that wait, first come first."""
        return tuple(ticket for ticket in self.tickets if not ticket.holds)


def occupied_for(group: Group, ticket: Ticket) -> int:
    """Return how many slots are spoken for as `ticket` sees it: ahead of it, or held."""
    return sum(
        other.machine_id != ticket.machine_id and (other.holds or other.create_revision < ticket.create_revision)
        for other in group.tickets
    )


def may_take(group: Group, ticket: Ticket) -> bool:
    """Tell whether a waiting ticket may take a slot now."""
    if ticket.holds or group.settings.pause is not None or not group.sees(ticket):
        return False
    return occupied_for(group, ticket) < group.settings.max


def may_go_down(group: Group, ticket: Ticket) -> bool:
    """Tell whether the host of a ticket may go down now; one that may be down already may."""
    phase = ticket.claim.phase
    if group.settings.pause is not None or phase in (Phase.WAITING, Phase.MANUAL, Phase.DAMAGED):
        return False
    if phase is Phase.REBOOTING:
        return True
    counted = sum(
        other.machine_id != ticket.machine_id
        and other.holds
        and (other.claim.phase is not Phase.HELD or other.create_revision < ticket.create_revision)
        for other in group.tickets
    )
    return counted < group.settings.max


def watched_by(group: Group, ticket: Ticket) -> str | None:
    """Return the id of the one ticket that a waiter watches: the next waiter ahead; None for the first waiter.

    The first waiter watches for anybody who leaves. So a release wakes one host, whatever the queue's length.
    """
    ahead = [other for other in group.waiting if other.create_revision < ticket.create_revision]
    return ahead[-1].machine_id if ahead else None


def held_back(group: Group, ticket: Ticket, now: datetime) -> str:
    """Return why nobody is granted a slot for now, beside the rule; empty when nothing is in the way.

    The minimum interval is between grants, so it holds back who waits; too many overdue hold back also who has a slot
    and is up.
    """
    settings = group.settings
    if settings.min_interval_secs and group.recent and not ticket.holds:
        return (
            f"{group.recent} was granted a slot less than {settings.min_interval_secs} s ago, "
            "the least time between two grants"
        )
    others = [other for other in group.tickets if other.machine_id != ticket.machine_id]
    overdue = [other.machine_id for other in others if is_overdue(other, now)]
    if settings.overdue_budget and len(overdue) >= settings.overdue_budget:
        return f"{len(overdue)} overdue ({', '.join(overdue[:5])}), and the group stops at {settings.overdue_budget}"
    return ""


def is_overdue(ticket: Ticket, now: datetime) -> bool:
    """Tell whether a host has been down for longer than it expected."""
    if ticket.claim.phase not in (Phase.HELD, Phase.REBOOTING):
        return False
    try:
        expected = datetime.fromisoformat(ticket.claim.expected_back)
    except ValueError:
        return True  # nobody can say until when it is all right
    return expected.tzinfo is None or now > expected


def share_of(known: int, percent: int) -> int:
    """Return how many of `known` machines a percentage is: rounded down, but one at least."""
    return min(max(known * percent // 100, 1), MAX_LIMIT)


# ---- documents


def encode_claim(claim: Claim) -> bytes:
    """Write a claim as the JSON document of its key; the machine id is in the key's name."""
    document = {name: str(getattr(claim, name))[:TEXT_LIMIT] for name in _CLAIM_TEXTS}
    return json.dumps({"phase": claim.phase.value, "number": claim.number, **document}).encode()


def decode_claim(machine_id: str, data: bytes) -> Claim:
    """Read a ticket's document; what can't be read is a `DAMAGED` claim, which occupies a slot."""
    try:
        if not NAME.fullmatch(machine_id):
            raise DamagedError(f"{machine_id[:80]!r} is no machine id")
        document = load_object(data)
        phase = Phase(document.get("phase"))
        texts = {name: text_in(document, name) for name in _CLAIM_TEXTS}
        number = _number(document, "number", 2**63 - 1)
    except ValueError as error:
        return Claim(machine_id, Phase.DAMAGED, boot_id="", detail=str(error)[:TEXT_LIMIT])
    return Claim(machine_id, phase, number=number, **texts)


def encode_settings(settings: GroupSettings) -> bytes:
    """Write the group's settings as their JSON document."""
    pause = settings.pause
    paused = None if pause is None else {name: str(getattr(pause, name))[:TEXT_LIMIT] for name in _PAUSE_TEXTS}
    numbers = {name: getattr(settings, name) for name in _SETTINGS_NUMBERS}
    return json.dumps({"max": settings.max, "paused": paused, **numbers}).encode()


def decode_settings(data: bytes, revision: int) -> GroupSettings:
    """Read the group's settings.

    Raises:
        DamagedError: not the document that `encode_settings` writes; nobody may be granted a slot then.
    """
    document = load_object(data)
    limit = document.get("max")
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise DamagedError(f"max is {limit!r}, not a number from 1 to {MAX_LIMIT}")
    numbers = {name: _number(document, name, most) for name, most in _SETTINGS_NUMBERS.items()}
    paused = document.get("paused")
    if paused is not None and not isinstance(paused, dict):
        raise DamagedError(f"paused is {str(paused)[:80]!r}")
    pause = None if paused is None else Pause(**{name: text_in(paused, name) for name in _PAUSE_TEXTS})
    return GroupSettings(limit, pause, revision, **numbers)


def encode_unlock(unlock: Unlock) -> bytes:
    """Write the record of a forced unlock as its JSON document."""
    return json.dumps({name: str(getattr(unlock, name))[:TEXT_LIMIT] for name in _UNLOCK_TEXTS}).encode()


def decode_unlock(data: bytes) -> Unlock:
    """Read the record of a forced unlock; one that can't be read says so instead of a reason: it decides nothing."""
    try:
        document = load_object(data)
        return Unlock(**{name: text_in(document, name) for name in _UNLOCK_TEXTS})
    except DamagedError as error:
        return Unlock("", "", f"this record is damaged: {error}"[:TEXT_LIMIT], "", "", "")


_CLAIM_TEXTS = ("boot_id", "host", "version_from", "version_to", "since", "expected_back", "detail")
_PAUSE_TEXTS = ("by", "reason", "at")
_UNLOCK_TEXTS = ("machine_id", "by", "reason", "at", "phase", "since")
_SETTINGS_NUMBERS = {
    "percent": 100, "known": KNOWN_LIMIT, "min_interval_secs": INTERVAL_LIMIT, "overdue_budget": MAX_LIMIT,
}  # fmt: skip


def load_object(data: bytes) -> dict[str, Any]:
    """Read a document of the store, which must be one JSON object.

    Raises:
        DamagedError: it isn't, or it is too long.
    """
    if len(data) > DOCUMENT_LIMIT:
        raise DamagedError(f"the document has {len(data)} bytes, over {DOCUMENT_LIMIT}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the document is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DamagedError("the document is no JSON object")
    return document


def text_in(document: dict[str, Any], name: str) -> str:
    """Return one text of a document, empty when it isn't there.

    Raises:
        DamagedError: it is no text, or too long.
    """
    value = document.get(name, "")
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise DamagedError(f"{name} is no text of at most {TEXT_LIMIT} characters")
    return printable(value)


def printable(text: str) -> str:
    """Return a text that somebody else wrote as one line that does nothing to a terminal or a log."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def _number(document: dict[str, Any], name: str, most: int) -> int:
    value = document.get(name, 0)
    if type(value) is not int or not 0 <= value <= most:
        raise DamagedError(f"{name} is {str(value)[:80]!r}, not a number from 0 to {most}")
    return value
