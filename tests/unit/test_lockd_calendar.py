"""Calendar expressions and blackouts as windows, and a host's turn in a window."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from lockd.oncalendar import parse
from lockd.turns import MISSED_LIMIT, fraction_of, missed_windows, turn_in
from lockd.windows import Blackout, Outlook, Window, look, next_openings, parse_blackout

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def calendar(text: str, secs: int = 3600) -> Window:
    return Window(time(0), secs, BERLIN, calendar=parse(text))


def test_first_saturday_of_the_month() -> None:
    """A window once a month is found months ahead, and is closed since the last one."""
    window = calendar("Sat *-*-1..7 03:00")
    found = look([window], at("2026-05-05T12:00:00Z"))
    assert (found.since, found.next_open) == (at("2026-05-02T04:00:00+02:00"), at("2026-06-06T03:00:00+02:00"))
    starts = [opening.start for opening in next_openings([window], at("2026-05-05T12:00:00Z"), 3)]
    assert [start.astimezone(BERLIN).day for start in starts] == [6, 4, 1]


def test_leap_days_are_found_years_ahead() -> None:
    """A window on 29 February opens in the next leap year."""
    assert look([calendar("02-29")], at("2025-01-01T00:00:00Z")).next_open == at("2028-02-29T00:00:00+01:00")


def test_window_that_never_comes_is_closed() -> None:
    """A day that no month has opens nothing, and there is no next opening."""
    found = look([calendar("02-30")], at("2026-05-05T00:00:00Z"))
    assert (found.open, found.since, found.until, found.next_open) == (False, None, None, None)


def test_start_that_the_clocks_skip_is_left_out_as_systemd_does() -> None:
    """02:30 in the night of the change to summer time doesn't come, so that night has no window."""
    opening = next_openings([calendar("02:30")], at("2026-03-28T12:00:00Z"), 1)[0]
    assert opening.start == at("2026-03-30T02:30:00+02:00")


def starts(text: str, zone: str, after: str, count: int) -> list[datetime]:
    window = Window(time(0), 1, ZoneInfo(zone), calendar=parse(text))
    return [opening.start for opening in next_openings([window], at(after), count)]


def test_step_begins_anew_in_each_hour_at_midnight_too() -> None:
    """`0/7` is 0, 7, ... 56 of every hour: systemd 252 leaves 00:00 out after a step past the end of the day's last."""
    found = starts("*:0/7", "UTC", "2026-03-07T23:50:00Z", 3)
    assert found == [at(f"2026-03-{moment}:00Z") for moment in ("07T23:56", "08T00:00", "08T00:07")]


def test_step_in_hours_begins_anew_each_day() -> None:
    """`0/10` is 0, 10 and 20 of every day: systemd 252, asked after 20:02, leaves the next day's 00:02 out."""
    found = starts("*-*-* 0/10:2", "UTC", "2026-03-07T20:02:00Z", 2)
    assert found == [at("2026-03-08T00:02:00Z"), at("2026-03-08T10:02:00Z")]


def test_each_of_several_days_from_the_months_end_may_be_up_to_28() -> None:
    """`~5,26` names both days: systemd 252 takes 26 alone, and refuses it behind another."""
    assert starts("*-*~5,26", "UTC", "2026-03-01T00:00:00Z", 2) == [
        at("2026-03-06T00:00:00Z"),
        at("2026-03-27T00:00:00Z"),
    ]


def test_half_an_hour_that_comes_twice_opens_in_its_first_pass_only() -> None:
    """On Lord Howe 01:30 to 02:00 comes twice on 5 April 2026, at 14:30 and at 15:00 UTC, wherever one looks from."""
    found = starts("*:0/15", "Australia/Lord_Howe", "2026-04-04T14:29:00Z", 3)
    assert found == [at(f"2026-04-04T{moment}:00Z") for moment in ("14:30", "14:45", "15:30")]
    # in the second pass systemd, asked at that moment, elapses again at 15:15
    assert starts("*:45", "Australia/Lord_Howe", "2026-04-04T15:04:00Z", 1) == [at("2026-04-04T16:15:00Z")]


def test_half_an_hour_that_is_skipped_opens_nothing() -> None:
    """On Lord Howe 02:00 to 02:30 doesn't come on 4 October 2026: a calendar leaves it out, and goes on at 02:30."""
    found = starts("2:0/15", "Australia/Lord_Howe", "2026-10-03T15:00:00Z", 3)
    assert found == [at(f"2026-10-0{moment}:00Z") for moment in ("3T15:30", "3T15:45", "4T15:00")]


@pytest.mark.parametrize(
    "text",
    ["", "Mon..", "Fri..Mon", "24:00", "12:60", "*-13-01", "*-*-32", "*-*~29", "*/5:00", "12:00:05.5", "@1", "Mon 3",
     "Mon, Tue", "daily 3:00", "mo 3:00", "3:00 ", " 3:00", "2200-01-01", "x" * 300],
)  # fmt: skip
def test_what_is_no_calendar_expression_is_refused(text: str) -> None:
    """Slips are errors, never another time."""
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_too_many_starts_are_no_window() -> None:
    """An expression with more starts a day than asked for is refused."""
    assert len(parse("*:0/15", limit=96).times) == 96
    with pytest.raises(ValueError, match="more than 96 moments"):
        parse("minutely", limit=96)


def test_blackout_closes_whole_days_of_its_zone() -> None:
    """From the first midnight on, and up to the midnight after the last day, nothing is open; edges are half open."""
    dark = (parse_blackout("2026-12-24..2026-12-26", BERLIN),)
    always: list[Window] = []
    assert look(always, at("2026-12-23T23:59:59+01:00"), dark).until == at("2026-12-24T00:00:00+01:00")
    found = look(always, at("2026-12-24T00:00:00+01:00"), dark)
    assert (found.open, found.until) == (False, at("2026-12-27T00:00:00+01:00"))
    assert look(always, at("2026-12-27T00:00:00+01:00"), dark).open


def test_blackout_cuts_a_window_over_midnight() -> None:
    """A window that begins before the blackout ends with the day before it."""
    window, dark = Window(time(23), 7200, UTC), (Blackout(date(2026, 5, 5), date(2026, 5, 5), UTC),)
    found = look([window], at("2026-05-04T23:30:00Z"), dark)
    assert (found.open, found.until) == (True, at("2026-05-05T00:00:00Z"))
    assert not look([window], at("2026-05-05T23:30:00Z"), dark).open


@pytest.mark.parametrize(
    "text", ["2026-02-30", "2026-1-1", "12-24", "2026-05-05..2026-05-04", "2026-05-05..", "1969-01-01"]
)
def test_what_is_no_blackout_is_refused(text: str) -> None:
    """A day that doesn't exist, and an end before the beginning, are errors."""
    with pytest.raises(ValueError, match=r"."):
        parse_blackout(text, UTC)


# ---- turns

OPENED = datetime(2026, 5, 5, 2, tzinfo=UTC)
OUTLOOK = Outlook(True, OPENED, OPENED + timedelta(hours=1), None)


def test_hosts_are_spread_evenly_and_always_alike() -> None:
    """A thousand ids fall into ten tenths of about a hundred each, and an id has the same place each time."""
    places = [fraction_of(f"host-{number}") for number in range(1000)]
    counts = [sum(tenth <= place * 10 < tenth + 1 for place in places) for tenth in range(10)]
    assert min(counts) > 70
    assert max(counts) < 130
    assert fraction_of("host-1") == places[1]


def test_turn_leaves_time_for_the_reboot() -> None:
    """However long the spread, the last host's turn comes before the end by the time that a reboot needs."""
    turn = turn_in(OUTLOOK, fraction=0.999, spread_secs=7200.0, needed_secs=600.0, missed=0)
    assert turn is not None
    assert turn < OPENED + timedelta(seconds=3000)
    assert turn_in(OUTLOOK, fraction=0.5, spread_secs=0.0, needed_secs=0.0, missed=0) is None


def test_host_that_missed_its_turn_goes_earlier_in_the_next() -> None:
    """Each window that went by halves the time to the host's turn in the next."""
    turns = [turn_in(OUTLOOK, fraction=0.8, spread_secs=1000.0, needed_secs=0.0, missed=count) for count in range(3)]
    assert turns == [OPENED + timedelta(seconds=secs) for secs in (800, 400, 200)]


def test_missed_windows_are_counted_from_when_the_wait_began() -> None:
    """Windows that closed since then count, up to a limit; the one that is open doesn't."""
    window = [Window(time(2), 3600, UTC)]
    began = OPENED - timedelta(hours=12)
    counts = [missed_windows(window, (), began, OPENED + timedelta(days=days)) for days in (0, 1, 3, 300)]
    assert counts == [0, 1, 3, MISSED_LIMIT]


@pytest.mark.parametrize("text", ["*:0..0:0..0", "*:0:7..7", "*:0:1,07..7"])
def test_a_range_of_one_second_is_refused(text: str) -> None:
    """Systemd takes such a range of hours and minutes, and refuses it of seconds; so does this."""
    with pytest.raises(ValueError, match="more than one second"):
        parse(text)


@pytest.mark.parametrize("text", ["*:5..5", "3..3:00", "*:0:7..7/5", "*:0:7..8"])
def test_ranges_that_systemd_takes(text: str) -> None:
    """Nothing else of that shape is refused."""
    assert parse(text).times
