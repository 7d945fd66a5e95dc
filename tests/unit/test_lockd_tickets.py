"""The semaphore's rule and its documents."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lockd.ctl import show
from lockd.tickets import (
    TEXT_LIMIT,
    Claim,
    DamagedError,
    Group,
    GroupSettings,
    Pause,
    Phase,
    Ticket,
    Unlock,
    decode_claim,
    decode_settings,
    decode_unlock,
    encode_claim,
    encode_settings,
    encode_unlock,
    held_back,
    may_go_down,
    may_take,
    occupied_for,
    share_of,
    watched_by,
)

CLAIM = Claim("m1", Phase.HELD, "boot", "host", "1.0", "1.1", "2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z", "why")


def group(limit: int, *phases: Phase, pause: Pause | None = None) -> Group:
    """Make a group whose tickets `m0`, `m1`... came in this order."""
    tickets = [
        Ticket(Claim(f"m{place}", phase, "boot"), place + 1, place + 1, lease=0) for place, phase in enumerate(phases)
    ]
    return Group(GroupSettings(limit, pause, 1), tuple(tickets), 100)


def takers(found: Group) -> list[str]:
    return [ticket.machine_id for ticket in found.tickets if may_take(found, ticket)]


W, H = Phase.WAITING, Phase.HELD


@pytest.mark.parametrize(
    ("limit", "phases", "expected"),
    [
        (1, [W, W], ["m0"]),
        (1, [H, W], []),
        (2, [W, W, W], ["m0", "m1"]),
        (2, [H, W, W], ["m1"]),
        (3, [W, H, W, W], ["m0", "m2"]),
        (1, [Phase.ROLLED_BACK, W], []),
        (1, [Phase.REBOOTING, W], []),
        (1, [Phase.MANUAL, W], []),
        (1, [Phase.DAMAGED, W], []),
    ],
)
def test_first_come_first_served(limit: int, phases: list[Phase], expected: list[str]) -> None:
    """As many of the first tickets may hold as the limit says, and no others."""
    assert takers(group(limit, *phases)) == expected


def test_lowered_limit_grants_nothing_until_enough_are_back() -> None:
    """When max is lowered below the number that are down, even the first waiter waits."""
    assert takers(group(1, W, H, H)) == []
    assert takers(group(2, W, H, H)) == []
    assert takers(group(3, W, H, H)) == ["m0"]


def test_own_slot_never_stands_in_its_own_way() -> None:
    """A host whose grant took effect while the answer got lost isn't counted against itself."""
    full = group(1, H)
    assert occupied_for(full, full.tickets[0]) == 0


R = Phase.REBOOTING


@pytest.mark.parametrize(
    ("limit", "phases", "expected"),
    [
        (2, [H, H], ["m0", "m1"]),
        (1, [H, H], ["m0"]),
        (1, [R, H], ["m0"]),
        (2, [R, H, H], ["m0", "m1"]),
        (1, [H, R], ["m1"]),
        (1, [H, Phase.DAMAGED], []),
        (1, [W, H], ["m1"]),
        (1, [Phase.ROLLED_BACK, H], ["m0"]),
        (1, [Phase.ROLLED_BACK, R], ["m1"]),
        (2, [Phase.ROLLED_BACK, R], ["m0", "m1"]),
        (1, [Phase.MANUAL], []),
    ],
)
def test_holders_go_down_within_the_limit_of_that_moment(limit: int, phases: list[Phase], expected: list[str]) -> None:
    """After max was lowered, who holds and is still up stays up until enough are back; who may be down is settled."""
    found = group(limit, *phases)
    assert [ticket.machine_id for ticket in found.tickets if may_go_down(found, ticket)] == expected


def test_pause_lets_nobody_go_down() -> None:
    """A pause stops those too who hold a slot already."""
    found = group(2, H, R, pause=Pause("me", "why", "now"))
    assert not any(may_go_down(found, ticket) for ticket in found.tickets)


def test_pause_grants_nothing() -> None:
    """Nobody takes a slot of a paused group."""
    assert takers(group(2, W, W, pause=Pause("me", "why", "now"))) == []


def test_waiter_watches_its_predecessor_only() -> None:
    """The first waiter watches for releases, every other one the waiter just ahead of it."""
    found = group(1, H, W, W, W)
    assert [watched_by(found, ticket) for ticket in found.waiting] == [None, "m1", "m2"]


def test_partial_look_decides_as_the_whole_one_does() -> None:
    """With the front of the queue and the holders alone, nobody takes a slot who wouldn't with everybody in view."""
    whole = group(5, H, *[W] * 9)
    seen = replace(whole, tickets=(*whole.tickets[:4], whole.tickets[7], whole.tickets[8]), horizon=4, queued=9)
    assert takers(whole) == ["m1", "m2", "m3", "m4"]
    assert takers(seen) == ["m1", "m2", "m3"]  # m8 sees four ahead of it, and knows that this isn't all
    assert watched_by(seen, seen.tickets[-1]) == "m7"


NOW = datetime(2026, 1, 1, 0, 31, tzinfo=UTC)


def with_overdue(budget: int) -> Group:
    """Make a group in which `m0` was expected back a minute ago, and `m1` comes next."""
    found = group(3, H, H, W)
    late = replace(found.tickets[0].claim, expected_back="2026-01-01T00:30:00Z")
    fine = replace(found.tickets[1].claim, expected_back="2026-01-01T00:32:00Z")
    tickets = replace(found.tickets[0], claim=late), replace(found.tickets[1], claim=fine), found.tickets[2]
    return replace(found, tickets=tickets, settings=replace(found.settings, overdue_budget=budget))


@pytest.mark.parametrize(("budget", "place", "held"), [(0, 2, False), (1, 2, True), (2, 2, False), (1, 1, True)])
def test_overdue_budget_stops_the_group(budget: int, place: int, *, held: bool) -> None:
    """Overdue machines only keep their slots, unless there is a budget: once it is used up nobody goes."""
    found = with_overdue(budget)
    assert bool(held_back(found, found.tickets[place], NOW)) is held


def test_machine_that_is_overdue_is_not_in_its_own_way() -> None:
    """A machine whose own reboot took long isn't held back by itself."""
    found = with_overdue(1)
    assert held_back(found, found.tickets[0], NOW) == ""


def test_minimum_interval_holds_back_who_waits() -> None:
    """So long after a grant nobody is granted a slot; who has one goes on. Without an interval nothing holds."""
    found = group(3, H, W)
    recent = replace(found, recent="m0", settings=replace(found.settings, min_interval_secs=600))
    assert "m0 was granted a slot less than 600 s ago" in held_back(recent, found.tickets[1], NOW)
    assert held_back(recent, found.tickets[0], NOW) == ""
    assert held_back(replace(found, recent="m0"), found.tickets[1], NOW) == ""


@pytest.mark.parametrize(
    ("known", "percent", "expected"), [(1, 1, 1), (9, 10, 1), (19, 10, 1), (20, 10, 2), (3, 100, 3), (10**6, 100, 1000)]
)
def test_share_is_rounded_down_but_never_nothing(known: int, percent: int, expected: int) -> None:
    """A percentage of few machines is one at least, of many never more than a group can have."""
    assert share_of(known, percent) == expected


def test_record_of_a_forced_unlock_survives_the_store() -> None:
    """What is written is what is read; what can't be read says so."""
    record = Unlock("m1", "alice@host", "why", "2026-01-01T00:00:00Z", "held", "2025-12-31T00:00:00Z")
    assert decode_unlock(encode_unlock(record)) == record
    assert "damaged" in decode_unlock(b"[]").reason


def test_claim_survives_the_store() -> None:
    """What is written is what is read."""
    assert decode_claim("m1", encode_claim(CLAIM)) == CLAIM


def test_text_of_others_does_nothing_to_a_terminal() -> None:
    """Escapes and line ends in what another host or operator wrote come out as question marks."""
    claim = decode_claim("m1", encode_claim(Claim("m1", Phase.HELD, "boot", host="a\x1b[2Jb", detail="one\ntwo\u202e")))
    assert (claim.host, claim.detail) == ("a?[2Jb", "one?two?")
    settings = decode_settings(encode_settings(GroupSettings(pause=Pause("me", "\x1b]0;x\x07", "then"))), 1)
    assert settings.pause is not None
    assert settings.pause.reason == "?]0;x?"
    assert show.table([("m\x1b[1m", "plain ü")]) == "m?[1m  plain ü"


def test_overlong_text_is_cut_not_damaged() -> None:
    """A version of any length can't make a host's own ticket unreadable."""
    claim = decode_claim("m1", encode_claim(Claim("m1", Phase.HELD, "boot", version_to="\x00\U0001f600" * 5000)))
    assert claim.phase is Phase.HELD
    assert len(claim.version_to) == TEXT_LIMIT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"phase": "gone"}',
        b'{"phase": ["held"]}',
        b'{"phase": "held", "boot_id": 7}',
        b'{"phase": "held", "number": -1}',
        b'{"phase": "held", "number": "1"}',
        b'{"phase": "held", "host": "' + b"x" * 513 + b'"}',
        b"[" * 100_000,
        b'{"phase": "held", "detail": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_unreadable_ticket_counts_as_a_held_slot(data: bytes) -> None:
    """A ticket that can't be read occupies a slot, and says what is wrong with it."""
    claim = decode_claim("m1", data)
    assert claim.phase is Phase.DAMAGED
    assert claim.detail
    assert Ticket(claim, 1, 1).holds


@pytest.mark.parametrize("machine_id", ["", "a/b", "x" * 65, "a b", "é", "a\n"])
def test_impossible_machine_id_is_damaged(machine_id: str) -> None:
    """A key that can't be a machine's occupies a slot too."""
    assert decode_claim(machine_id, encode_claim(CLAIM)).phase is Phase.DAMAGED


def test_settings_survive_the_store() -> None:
    """What is written is what is read, with the revision of the read."""
    settings = GroupSettings(7, Pause("me", "why", "now"), 9, 10, 70, 600, 2)
    assert decode_settings(encode_settings(settings), 9) == settings


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"max": 0},
        {"max": -1},
        {"max": 1001},
        {"max": True},
        {"max": 1.0},
        {"max": "1"},
        {"max": 1, "percent": 101},
        {"max": 1, "percent": -1},
        {"max": 1, "known": "7"},
        {"max": 1, "min_interval_secs": 1.5},
        {"max": 1, "overdue_budget": True},
        {"max": 1, "paused": True},
        {"max": 1, "paused": {"by": 1}},
        [],
    ],
)
def test_damaged_settings_are_an_error(document: object) -> None:
    """A limit that can't be (negative, too large, no number) is never taken for one."""
    with pytest.raises(DamagedError):
        decode_settings(json.dumps(document).encode(), 1)
