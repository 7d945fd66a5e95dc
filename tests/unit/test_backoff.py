"""How long a payload that failed is left alone, what counts as an attempt, and what a wrong clock can't do."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest

from updated.agent.backoff import Backoff, after_failure, from_document, identity, lies_with_payload, same_payload
from updated.agent.memory import Memory, decode, encode
from updated.errors import ErrorCode, LocalError, RefusedError, RemoteError, Retry, UpdateError
from updated.omaha.protocol import Offer
from updated.omaha.schedule import backoff_secs

HOUR, DAY = 3600.0, 86400.0
NOW = datetime(2026, 5, 5, 12, tzinfo=UTC)
OFFER = Offer("1.1.0", ("http://a/p", "http://b/p"), "p", 1000, bytes(32))
MIDDLE = 0.5  # a die that adds nothing


@pytest.mark.parametrize(("attempt", "minutes"), [(1, 15), (2, 60), (3, 360)])
def test_first_failures_wait_minutes_and_hours(attempt: int, minutes: int) -> None:
    """A failed download costs a quarter of an hour, not a day; the first waits are half of themselves more or less."""
    assert backoff_secs(attempt, MIDDLE) == minutes * 60
    assert backoff_secs(attempt, 0.0) == minutes * 30
    assert backoff_secs(attempt, 0.999) < minutes * 90


@pytest.mark.parametrize(("attempt", "days"), [(4, 1), (5, 2), (6, 4), (7, 8), (8, 16), (9, 16), (60, 16), (10**9, 16)])
def test_table_of_delays(attempt: int, days: int) -> None:
    """After three short waits it doubles from one day to 16, six hours more or less."""
    assert backoff_secs(attempt, MIDDLE) == days * DAY
    assert backoff_secs(attempt, 0.0) == days * DAY - 6 * HOUR
    assert days * DAY + 5.9 * HOUR < backoff_secs(attempt, 0.999) < days * DAY + 6 * HOUR


def test_attempts_add_up_until_the_payload_changes() -> None:
    """The second failure of one payload waits longer; whatever else the answer says of it begins anew."""
    first = after_failure(None, OFFER, NOW, MIDDLE)
    second = after_failure(first, OFFER, NOW, MIDDLE)
    assert first is not None
    assert second is not None
    assert (first.attempt, first.until(NOW)) == (1, NOW + timedelta(minutes=15))
    assert (second.attempt, second.until(NOW)) == (2, NOW + timedelta(hours=1))
    other = after_failure(second, dataclasses.replace(OFFER, size=1001), NOW, MIDDLE)
    assert other is not None
    assert other.attempt == 1


@pytest.mark.parametrize(
    "change",
    [
        {"size": 1001},
        {"sha256": b"\1" * 32},
        {"sha256": None},
        {"urls": ("http://b/p", "http://a/p")},
        {"is_delta": True},
        {"disable_backoff": True},
        {"max_failures_per_url": 3},
    ],
)
def test_identity_is_all_that_update_engine_looks_at(change: dict[str, object]) -> None:
    """Another size, hash, order of URLs or flag is another payload; the poll interval isn't part of it."""
    known = after_failure(None, OFFER, NOW, MIDDLE)
    assert same_payload(known, dataclasses.replace(OFFER, poll_interval_secs=60)) == known
    changed = dataclasses.replace(OFFER, **change)  # type: ignore[arg-type]
    assert identity(changed) != identity(OFFER)
    assert same_payload(known, changed) is None


@pytest.mark.parametrize("flag", ["disable_backoff", "is_delta"])
def test_offers_that_are_never_left_alone(flag: str) -> None:
    """The server may say so, and a delta is tried again."""
    assert after_failure(None, dataclasses.replace(OFFER, **{flag: True}), NOW, MIDDLE) is None


@pytest.mark.parametrize(
    ("after", "held"),
    [
        (timedelta(0), True),
        (timedelta(minutes=14), True),
        (timedelta(minutes=15), False),
        (timedelta(days=4000), False),  # the clock was set forward
        (timedelta(days=-10), True),  # and back, by less than the longest wait
        (timedelta(days=-20), False),
        (timedelta(days=-4000), False),
    ],
)
def test_clock_that_was_set(after: timedelta, held: bool) -> None:
    """A clock set back never holds a payload longer than the longest wait; one set forward ends it."""
    known = after_failure(None, OFFER, NOW, MIDDLE)
    assert known is not None
    assert (known.until(NOW + after) is not None) is held


def test_longest_wait_isnt_taken_for_a_wrong_clock() -> None:
    """16 days and nearly 6 hours are a wait; an hour more isn't one."""
    known = Backoff("x", "1", 9, "2026-05-21T18:00:00Z")
    assert known.until(NOW) is not None
    assert known.until(NOW - timedelta(hours=1)) is None


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (RemoteError(ErrorCode.DOWNLOAD_TRANSFER, "", hint="", retry=Retry.LATER), True),
        (RemoteError(ErrorCode.HTTP_STATUS, "", hint=""), True),
        (RefusedError(ErrorCode.PACKAGE_MISMATCH, "", hint="", retry=Retry.OTHER_SOURCE), True),
        (RefusedError(ErrorCode.METADATA_SIGNATURE_MISMATCH, "", hint=""), True),
        (RefusedError(ErrorCode.OPERATION_EXECUTION, "", hint=""), True),
        (RefusedError(ErrorCode.KEY_MISSING, "", hint=""), False),
        (RefusedError(ErrorCode.ROLLBACK_INDEX_TOO_LOW, "", hint=""), False),
        (RefusedError(ErrorCode.TARGET_TOO_SMALL, "", hint=""), False),
        (RefusedError(ErrorCode.CANCELLED, "", hint="", retry=Retry.OTHER_SOURCE), False),
        (LocalError(ErrorCode.NO_SPACE, "", hint=""), False),
        (LocalError(ErrorCode.DOWNLOAD_WRITE, "", hint="", retry=Retry.OTHER_SOURCE), False),
    ],
)
def test_what_is_an_attempt(error: UpdateError, counts: bool) -> None:
    """The payload's faults and its servers' are, this host's and its policy's aren't."""
    assert lies_with_payload(error) is counts


def test_state_file_keeps_it_and_older_ones_load() -> None:
    """It survives a restart; without one the file is as agents wrote it that know of none."""
    memory = Memory(backoff=after_failure(None, OFFER, NOW, MIDDLE), failed_versions=["0.9"])
    assert decode(encode(memory)) == memory
    old = encode(Memory(failed_versions=["0.9"]))
    assert "backoff" not in json.loads(old)
    assert decode(old).backoff is None


@pytest.mark.parametrize(
    "change",
    [
        5,
        [],
        {},
        {"attempt": 0},
        {"attempt": "1"},
        {"version": None},
        {"not_before": "soon"},
        {"not_before": "2026-05-05T12:00:00"},
        {"payload": 1},
    ],
)
def test_unreadable_backoff_costs_nothing_else(change: object) -> None:
    """What can't be read of it counts as none, and the rest of the state stays."""
    good = {"payload": "x", "version": "1", "attempt": 1, "not_before": "2026-05-05T12:00:00Z"}
    assert from_document(good) is not None
    damaged = {**good, **change} if isinstance(change, dict) and change else change
    raw = json.loads(encode(Memory(failed_versions=["0.9"])))
    loaded = decode(json.dumps({**raw, "backoff": damaged}).encode())
    assert (loaded.backoff, loaded.failed_versions) == (None, ["0.9"])
