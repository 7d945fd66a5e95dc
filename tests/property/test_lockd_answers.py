"""Hostile answers of etcd: understood or refused, never anything else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockd import etcd_codec as codec
from lockd.tickets import Claim, Phase, encode_claim
from tests.support.campaign import scale

pytestmark = pytest.mark.timeout(scale(300, 4 * 3600))
OPERATIONS = [codec.read("/l/settings"), codec.read_prefix("/l/tickets/")]
TICKET = encode_claim(Claim("m1", Phase.HELD, "boot"))


def pair(key: str, value: bytes, created: int = 3) -> dict[str, Any]:
    return {
        "key": base64.b64encode(key.encode()).decode(),
        "value": base64.b64encode(value).decode(),
        "create_revision": str(created),
        "mod_revision": str(created + 1),
        "version": "1",
    }


def answer(*tickets: dict[str, Any]) -> dict[str, Any]:
    return {
        "header": {"cluster_id": "1", "member_id": "2", "revision": "9", "raft_term": "2"},
        "succeeded": True,
        "responses": [
            {"response_range": {"header": {"revision": "9"}}},
            {"response_range": {"header": {"revision": "9"}, "kvs": list(tickets), "count": str(len(tickets))}},
        ],
    }


GOOD = answer(pair("/l/tickets/m1", TICKET), pair("/l/tickets/m2", TICKET, 5))


def parse(document: object) -> codec.TxnAnswer:
    return codec.parse_txn(json.dumps(document).encode(), OPERATIONS)


def test_good_answer_is_read() -> None:
    """What etcd sends arrives, typed; what it leaves out is zero."""
    found = parse(GOOD)
    assert (found.succeeded, found.revision, found.ranges[0]) == (True, 9, ())
    assert [(item.key, item.create_revision, item.lease) for item in found.ranges[1]] == [
        ("/l/tickets/m1", 3, 0),
        ("/l/tickets/m2", 5, 0),
    ]


def test_failed_comparison_is_no_success() -> None:
    """An answer without `succeeded` is a transaction that didn't happen."""
    assert parse({"header": {"revision": "9"}}).succeeded is False


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"succeeded": True},
        {"header": {"revision": "9"}, "succeeded": True},
        {"header": {"revision": "-9"}, "succeeded": False},
        {"header": {"revision": "99999999999999999999"}},
        {"header": {"revision": 1.5}},
        GOOD | {"succeeded": "true"},
        GOOD | {"responses": [{}, {}]},
        GOOD | {"responses": GOOD["responses"][:1]},
        answer(pair("/l/tickets/m1", TICKET), pair("/l/tickets/m1", TICKET)),
        answer(pair("/l/tickets/m1", TICKET, created=0)),
        answer(pair("/l/tickets/m1", TICKET, created=9)),
        answer(pair("/l/tickets/m1", TICKET) | {"key": "!!"}),
        answer(pair("/l/tickets/m1", TICKET) | {"lease": "-1"}),
    ],
)
def test_answer_that_makes_no_sense_is_refused(document: object) -> None:
    """Missing parts, impossible numbers, doubled keys: an error, not a guess."""
    with pytest.raises(codec.AnswerError):
        parse(document)


def test_answer_that_hides_tickets_is_refused() -> None:
    """Fewer keys than counted, or `more` to come, would make the queue look shorter."""
    hidden = answer(pair("/l/tickets/m1", TICKET))
    hidden["responses"][1]["response_range"]["count"] = "2"
    with pytest.raises(codec.AnswerError):
        parse(hidden)
    more = answer(pair("/l/tickets/m1", TICKET))
    more["responses"][1]["response_range"]["more"] = True
    with pytest.raises(codec.AnswerError):
        parse(more)


BODY = json.dumps(GOOD).encode()


@settings(max_examples=scale(500, 50_000), deadline=None)
@given(st.integers(0, len(BODY) - 1), st.binary(max_size=4), st.integers(0, 40))
def test_mutated_answer_is_understood_or_refused(place: int, inserted: bytes, removed: int) -> None:
    """Whatever happens to the bytes, the only error is the one that means: no reboot."""
    mutated = BODY[:place] + inserted + BODY[place + removed :]
    try:
        found = codec.parse_txn(mutated, OPERATIONS)
    except codec.AnswerError:
        return
    items = [item for answered in found.ranges for item in answered]
    assert all(0 < item.create_revision <= item.mod_revision <= found.revision for item in items)
    assert not found.succeeded or len(found.ranges) == len(OPERATIONS)


@settings(max_examples=scale(100, 5_000), deadline=None)
@given(st.integers(0, len(BODY) - 1))
def test_truncated_answer_is_refused(length: int) -> None:
    """A cut answer is never believed."""
    with pytest.raises(codec.AnswerError):
        codec.parse_txn(BODY[:length], OPERATIONS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"result":{"created":true}}', False),
        (b'{"result":{"events":[{"kv":{}}]}}', True),
        (b'{"result":{"canceled":true}}', None),
        (b'{"result":{"canceled":true,"compact_revision":"7"}}', True),
        (b'{"error":{"message":"x"}}', None),
    ],
)
def test_watch_lines_are_told_apart(line: bytes, expected: bool | None) -> None:
    """Created, changed, cancelled or compacted: each line of a watch has one meaning."""
    assert codec.has_events(line) is expected
