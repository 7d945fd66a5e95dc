"""Windows against an oracle that walks minute by minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockd.windows import SIGHT_LASTS, Outlook, Window, look, look_anew
from tests.support.campaign import scale

pytestmark = pytest.mark.timeout(scale(300, 4 * 3600))
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Africa/Casablanca",
]
CHANGES = [
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
]
MINUTE = timedelta(minutes=1)

zones = st.sampled_from(ZONES).map(ZoneInfo)
windows = st.builds(
    Window,
    start=st.builds(time, st.integers(0, 23), st.integers(0, 59)),
    duration_secs=st.integers(1, 3 * 1440).map(lambda minutes: minutes * 60),
    zone=zones,
    weekdays=st.frozensets(st.integers(0, 6)),
)
FIRST, LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
moments = st.one_of(
    st.integers(0, 20 * 366 * 1440).map(lambda minutes: datetime(2016, 1, 1, tzinfo=UTC) + minutes * MINUTE),
    st.integers(0, (LAST - FIRST) // MINUTE).map(lambda minutes: FIRST + minutes * MINUTE),  # a clock off by years
    st.builds(lambda change, minutes: change + minutes * MINUTE, st.sampled_from(CHANGES), st.integers(-1500, 1500)),
)


any_moment = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))


@cache
def furthest(zone: tzinfo) -> tuple[timedelta, timedelta]:
    """Return how far a zone's clocks are from UTC, at the least and at the most, looking at every day of all years."""
    days = (FIRST + timedelta(days=shift) for shift in range(-30, (LAST - FIRST).days + 30))
    offsets = {offset for day in days if (offset := day.astimezone(zone).utcoffset()) is not None}
    return min(offsets), max(offsets)


def first_instant(day: date, start: time, zone: tzinfo) -> datetime:
    """Find when a wall clock first shows `start` on `day` minute by minute; a skipped time comes a gap later."""
    least, most = furthest(zone)
    moment, last = datetime.combine(day, start, UTC) - most, datetime.combine(day, start, UTC) - least
    while moment <= last:
        wall = moment.astimezone(zone)
        if wall.date() == day and wall.time() == start:
            return moment
        moment += MINUTE
    before = (datetime.combine(day, start, UTC) - timedelta(days=1)).astimezone(zone).utcoffset()
    assert before is not None
    return datetime.combine(day, start, UTC) - before  # skipped: as if the clocks hadn't changed yet


def open_at(window: Window, moment: datetime) -> bool:
    """Say whether a window is open by trying every day that could matter."""
    today = moment.astimezone(window.zone).date()
    for back in range(5):
        day = today - timedelta(days=back)
        if window.weekdays and day.weekday() not in window.weekdays:
            continue
        opened = first_instant(day, window.start, window.zone)
        if opened <= moment < opened + timedelta(seconds=window.duration_secs):
            return True
    return False


@settings(max_examples=scale(150, 10_000), deadline=None)
@given(st.lists(windows, min_size=1, max_size=2), moments)
def test_windows_agree_with_a_walk_over_every_minute(found: list[Window], moment: datetime) -> None:
    """A window is open exactly at the minutes at which a wall clock says so, clock changes included."""
    assert look_anew(found, moment).open == any(open_at(window, moment) for window in found)


@settings(max_examples=scale(300, 10_000), deadline=None)
@given(st.lists(windows, max_size=3), st.one_of(moments, any_moment))
def test_edges_are_where_it_changes(found: list[Window], moment: datetime) -> None:
    """`since`, `until` and `next_open` are moments at which the answer changes, and nothing changes between them."""
    outlook = look_anew(found, moment)
    if not found:
        assert (outlook.open, outlook.since, outlook.until, outlook.next_open) == (True, None, None, None)
        return
    second = timedelta(seconds=1)
    if outlook.until is not None:
        assert outlook.until > moment
        assert look_anew(found, outlook.until).open != outlook.open
        assert look_anew(found, outlook.until - second).open == outlook.open
    if outlook.since is not None:
        assert outlook.since <= moment
        assert look_anew(found, outlook.since).open == outlook.open
        assert look_anew(found, outlook.since - second).open != outlook.open
    if outlook.next_open is not None:
        assert look_anew(found, outlook.next_open).open
        assert not look_anew(found, outlook.next_open - second).open


@settings(max_examples=scale(150, 5_000), deadline=None)
@given(
    st.lists(windows, min_size=1, max_size=2),
    moments,
    st.lists(st.timedeltas(timedelta(days=-2), timedelta(days=9)) | st.timedeltas(-MINUTE, MINUTE), max_size=8),
)
def test_what_is_remembered_is_what_would_be_found(
    found: list[Window], moment: datetime, steps: list[timedelta]
) -> None:
    """However a clock moves from one look to the next, an answer from memory is the one that a new look would give."""
    for shift in (timedelta(0), *steps):
        moment += shift
        assert is_seen_by(look(found, moment), found, moment)


def is_seen_by(remembered: Outlook, found: list[Window], moment: datetime) -> bool:
    """Tell whether a look from this moment, or from a little before, when less or more was in sight, finds the same."""
    return remembered == look_anew(found, moment) or any(
        remembered == look_anew(found, moment - SIGHT_LASTS * back / 20) for back in range(1, 21)
    )
