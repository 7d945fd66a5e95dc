"""Reboot windows: strict parsing, half-open edges, clocks that change."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from lockd import windows as windows_room
from lockd.oncalendar import parse
from lockd.windows import WEEK_SECS, Window, check_duration, look, next_openings, parse_start, parse_weekday

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    "text", ["14:00xyz", "14:00 ", " 14:00", "4:00", "24:00", "14:60", "1400", "", "١٤:00", "14:00\n"]
)
def test_start_with_anything_more_is_refused(text: str) -> None:
    """A start is HH:MM and nothing else: what follows it isn't overlooked."""
    with pytest.raises(ValueError, match="no time of day"):
        parse_start(text)


def test_weekdays_by_short_and_full_name() -> None:
    """Every weekday is known by three letters and in full, in any case."""
    names = ["mon", "Tuesday", "WED", "thursday", "Fri", "Saturday", "sun"]
    assert [parse_weekday(name) for name in names] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["tuesady", "mo", "", "mon ", "8"])
def test_unknown_weekday_is_refused(text: str) -> None:
    """A slip in a weekday's name is an error."""
    with pytest.raises(ValueError, match="no weekday"):
        parse_weekday(text)


@pytest.mark.parametrize("secs", [0, -1, WEEK_SECS + 1])
def test_impossible_duration_is_refused(secs: int) -> None:
    """A window lasts from a second to a week."""
    with pytest.raises(ValueError, match="no duration"):
        check_duration(secs)


def test_edges_are_half_open() -> None:
    """At its start a window is open, at its end it is closed."""
    windows = [Window(time(2), 3600, UTC)]
    instants = ["01:59:59", "02:00:00", "02:59:59", "03:00:00"]
    assert [look(windows, at(f"2026-05-05T{text}Z")).open for text in instants] == [False, True, True, False]


def test_closed_window_tells_when_it_opens() -> None:
    """Outside of it: since when it is closed, and when the next one opens."""
    found = look([Window(time(2), 3600, UTC, frozenset({5}))], at("2026-05-05T12:00:00Z"))
    assert (found.open, found.since, found.until, found.next_open) == (
        False,
        at("2026-05-02T03:00:00Z"),
        at("2026-05-09T02:00:00Z"),
        at("2026-05-09T02:00:00Z"),
    )


def test_open_window_tells_until_when() -> None:
    """Inside of it: since when, until when, and when the one after it opens; over midnight too."""
    found = look([Window(time(23), 7200, UTC)], at("2026-05-05T00:30:00Z"))
    assert (found.open, found.since, found.until, found.next_open) == (
        True,
        at("2026-05-04T23:00:00Z"),
        at("2026-05-05T01:00:00Z"),
        at("2026-05-05T23:00:00Z"),
    )


def test_touching_windows_are_one() -> None:
    """Windows that overlap or touch are open from the first start to the last end."""
    windows = [Window(time(1), 3600, UTC), Window(time(2), 3600, UTC), Window(time(2, 30), 3600, UTC)]
    found = look(windows, at("2026-05-05T01:10:00Z"))
    assert (found.since, found.until) == (at("2026-05-05T01:00:00Z"), at("2026-05-05T03:30:00Z"))


def test_no_window_is_always_open() -> None:
    """Without a window there is nothing to wait for, ever."""
    assert look([], at("2026-05-05T01:10:00Z")).open
    assert next_openings([], at("2026-05-05T01:10:00Z"), 3) == ()


def test_whole_day_every_day_has_no_end() -> None:
    """A window of 24 hours every day is open with no end in sight."""
    found = look([Window(time(0), 86400, UTC)], at("2026-05-05T01:10:00Z"))
    assert (found.open, found.since, found.until, found.next_open) == (True, None, None, None)


def test_windows_that_close_each_others_gaps_have_no_end() -> None:
    """Two windows of different zones that cover the whole day between them never close, and so never open again."""
    windows = [
        Window(time(0), 48600, ZoneInfo("Asia/Kolkata")),
        Window(time(19), 37800, ZoneInfo("Australia/Lord_Howe")),
    ]
    found = look(windows, at("2016-01-14T13:00:00Z"))
    assert (found.open, found.until, found.next_open) == (True, None, None)


def test_start_that_the_clocks_skip_comes_after_the_change() -> None:
    """02:30 in the night when 02:00 becomes 03:00 is 03:30 summer time."""
    opening = next_openings([Window(time(2, 30), 600, BERLIN)], at("2026-03-28T12:00:00Z"), 1)[0]
    assert opening.start == at("2026-03-29T03:30:00+02:00")


def test_start_that_comes_twice_is_the_first() -> None:
    """02:30 in the night when 03:00 becomes 02:00 is the one in summer time, and there is one window only."""
    openings = next_openings([Window(time(2, 30), 600, BERLIN)], at("2026-10-24T12:00:00Z"), 2)
    assert [opening.start for opening in openings] == [at("2026-10-25T02:30:00+02:00"), at("2026-10-26T02:30:00+01:00")]


def test_duration_is_elapsed_time_across_a_change() -> None:
    """Two hours are two hours in the night when clocks change."""
    for day in ("2026-03-28", "2026-10-24"):
        opening = next_openings([Window(time(1, 30), 7200, BERLIN)], at(f"{day}T12:00:00Z"), 1)[0]
        assert opening.end - opening.start == timedelta(hours=2)


@pytest.mark.parametrize("moment", ["0001-01-05T00:00:00+00:00", "9999-12-30T00:00:00+00:00"])
def test_absurd_clock_opens_nothing(moment: str) -> None:
    """A clock at the end of the calendar is no reason to reboot, nor to crash."""
    assert not look([Window(time(0), 3600, UTC)], datetime.fromisoformat(moment)).open


def test_next_openings_are_listed_in_order() -> None:
    """`lockctl windows --next 3` lists the next three."""
    openings = next_openings([Window(time(4), 60, UTC, frozenset({0, 3}))], at("2026-05-04T04:00:30Z"), 3)
    assert [f"{opening.start:%a %d}" for opening in openings] == ["Thu 07", "Mon 11", "Thu 14"]


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often windows were laid out, with nothing remembered at the start."""
    times, real = [0], windows_room._laid_out

    def count(*arguments: Any) -> list[windows_room.Interval]:
        times[0] += 1
        return real(*arguments)

    monkeypatch.setattr(windows_room, "_laid_out", count)
    windows_room._remembered.clear()
    return times


def test_second_look_before_the_next_edge_lays_nothing_out(laid_out: list[int]) -> None:
    """A daemon looks several times a step: between two edges the work is done once, for each policy by itself."""
    found, opened = [Window(time(2), 3600, UTC)], at("2026-05-05T02:00:00Z")
    first = look(found, opened)
    assert (look(found, opened + timedelta(seconds=3599)), laid_out) == (first, [1])
    assert not look(found, opened + timedelta(hours=1)).open
    assert look(found, opened) == first
    assert laid_out == [2]
    assert not look([Window(time(2), 1800, UTC)], opened + timedelta(seconds=1800)).open
    assert laid_out == [3]


def test_clock_that_is_set_back_is_looked_at_anew(laid_out: list[int]) -> None:
    """What was found for later says nothing about before, not even in the hour that comes twice in autumn."""
    found = [Window(time(2), 3600, BERLIN)]
    assert not look(found, datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)).open
    assert look(found, datetime(2026, 10, 25, 2, 20, tzinfo=BERLIN)).open
    assert laid_out == [2]


def test_what_isnt_in_sight_is_looked_for_again(laid_out: list[int]) -> None:
    """Windows without an end are the most work, and remembered for a while only: an edge may come into sight."""
    found = [Window(time(0), 900, UTC, calendar=parse("*:0/15"))]
    endless = look(found, at("2026-05-05T02:00:00Z"))
    assert (endless.open, endless.since, endless.until) == (True, None, None)
    before = laid_out[0]
    look(found, at("2026-05-05T02:59:59Z"))
    assert laid_out[0] == before
    look(found, at("2026-05-05T03:00:00Z"))
    assert laid_out[0] > before
