"""Reboot windows: is one open, until when, and when is the next (pure: windows and a moment in, an outlook out).

A window opens at a wall-clock time of its zone, on chosen weekdays or as a calendar expression says, and stays open for
its duration in elapsed time. Both edges are half open: at the start it is open, at the end it is closed. Where clocks
change:

* a start that the clocks skip (02:30 in a spring night) is the same distance after the change (03:30 summer time); one
  of a calendar expression is left out, as systemd leaves it out;
* a start that comes twice (02:30 in an autumn night) is the first of the two;
* the duration isn't stretched or shortened by the change.

No window at all means that it is always open. Windows that overlap or touch count as one. Blackouts, whole days of
their zone, are cut out of what the windows say.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from lockd.oncalendar import Calendar

WEEK_SECS = 7 * 24 * 3600
WEEKLY_DAYS = 18  # how far to look where everything comes again each week: two weeks, and days for zones and clocks
FAR_DAYS = (WEEKLY_DAYS, 100, 500, 3700)  # and where it doesn't, as far as needed
EDGE_DAYS = 3  # at the ends of the calendar there is no room to look around
MARGIN_DAYS = 9  # a window that began so long ago may still be open: a week, and days for zones and clocks

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEKDAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(2199, 12, 31)
SIGHT_LASTS = timedelta(hours=1)  # that an edge isn't in sight may be as old as this; one in sight stays where it is
START = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """A time when reboots are allowed: at `start` on `weekdays`, none meaning every day, or as `calendar` says."""

    start: time
    duration_secs: int  # 1 to a week
    zone: tzinfo
    weekdays: frozenset[int] = frozenset()  # 0 is Monday
    calendar: Calendar | None = None


@dataclass(frozen=True, slots=True)
class Blackout:
    """Days on which no window is open, from the first midnight to the one after the last day."""

    first: date
    last: date
    zone: tzinfo


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time, half open, in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the windows say about one moment, in UTC.

    `since` and `until` bound the time in which nothing changes, `next_open` is the next opening after the moment: None
    when there is none in sight: within 18 days where everything comes again each week, else within ten years, and for
    the end of an open window within 100 days.
    """

    open: bool
    since: datetime | None
    until: datetime | None
    next_open: datetime | None


@dataclass(frozen=True, slots=True)
class _Remembered:
    """An answer of `look`, and from when until when nothing in it changes."""

    windows: tuple[Window, ...]
    blackouts: tuple[Blackout, ...]
    start: datetime
    end: datetime
    outlook: Outlook


# Many windows a day take a second to lay out, and lockd asks again and again about the same moments: a host's step for
# now, and for the windows that it missed. A clock that was set back is before `start`, and looks anew.
_remembered: deque[_Remembered] = deque(maxlen=32)


def parse_start(text: str) -> time:
    """Read `HH:MM`, 00:00 to 23:59, and nothing else.

    Raises:
        ValueError: it is something else.
    """
    found = START.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time of day from 00:00 to 23:59")
    return time(int(found[1]), int(found[2]))


def parse_weekday(text: str) -> int:
    """Read a weekday in English, three letters or in full, in any case; 0 is Monday.

    Raises:
        ValueError: it is none.
    """
    name = text.lower()
    for names in (WEEKDAYS, WEEKDAY_NAMES):
        if name in names:
            return names.index(name)
    raise ValueError(f"{text!r} is no weekday (Mon, Tue, Wed, Thu, Fri, Sat, Sun)")


def check_duration(secs: int) -> int:
    """Return `secs` when a window can last as long.

    Raises:
        ValueError: it isn't from one second to a week.
    """
    if not 1 <= secs <= WEEK_SECS:
        raise ValueError(f"{secs} s is no duration from 1 s to a week ({WEEK_SECS} s)")
    return secs


def parse_blackout(text: str, zone: tzinfo) -> Blackout:
    """Read `YYYY-MM-DD` or `YYYY-MM-DD..YYYY-MM-DD`, the last day included.

    Raises:
        ValueError: it is neither, or ends before it begins.
    """
    first, dots, last = text.partition("..")
    if not all(DAY.fullmatch(day) for day in (first, last if dots else first)):
        raise ValueError(f"{text!r} is no day YYYY-MM-DD, nor two with .. between them")
    begins = date.fromisoformat(first)
    ends = date.fromisoformat(last) if dots else begins
    if ends < begins or not FIRST_DAY <= begins <= ends <= LAST_DAY:
        raise ValueError(f"{text!r} ends before it begins, or is out of 1970 to 2199")
    return Blackout(begins, ends, zone)


def look(windows: Sequence[Window], at: datetime, blackouts: Sequence[Blackout] = ()) -> Outlook:
    """Return what the windows say about the moment `at` (aware); what was found lately isn't looked for again."""
    at = at.astimezone(UTC)
    policy = tuple(windows), tuple(blackouts)
    for known in _remembered:
        if known.start <= at < known.end and (known.windows, known.blackouts) == policy:
            return known.outlook
    found = look_anew(windows, at, blackouts)
    _remembered.append(_Remembered(*policy, at, _lasts_until(found, at), found))
    return found


def _lasts_until(found: Outlook, at: datetime) -> datetime:
    """Return the next edge; sooner where none is in sight on one side, for there one may come into it."""
    if found.since and found.until and found.next_open:
        return found.until
    sight = at + min(SIGHT_LASTS, datetime.max.replace(tzinfo=UTC) - at)
    return min(found.until or sight, sight)


def look_anew(windows: Sequence[Window], at: datetime, blackouts: Sequence[Blackout] = ()) -> Outlook:
    """Return what `look` does, laying the windows out around the moment as far as it takes to see the edges."""
    at = at.astimezone(UTC)
    if not windows and not blackouts:
        return Outlook(open=True, since=None, until=None, next_open=None)
    if not _has_room(at):
        return Outlook(open=False, since=None, until=None, next_open=None)  # a clock that far off isn't believed
    weekly = not blackouts and all(window.calendar is None for window in windows)
    found = Outlook(open=False, since=None, until=None, next_open=None)
    for days in FAR_DAYS[:1] if weekly else FAR_DAYS:
        span = _span(at, days)
        found = _outlook(_laid_out(windows, blackouts, span), span, at)
        if (found.next_open is not None and found.since is not None) or _is_endless(found, days):
            break
    return found


def _is_endless(found: Outlook, days: int) -> bool:
    """Tell whether to look no further for the end of an open window."""
    return found.open and found.until is None and days > WEEKLY_DAYS


def _span(at: datetime, days: int) -> Interval:
    room = timedelta(days=EDGE_DAYS)
    first, last = datetime.min.replace(tzinfo=UTC) + room, datetime.max.replace(tzinfo=UTC) - room
    reach = timedelta(days=days)
    return Interval(
        at - reach if at - first > reach else first,
        at + reach if last - at > reach else last,
    )


def _outlook(intervals: Sequence[Interval], span: Interval, at: datetime) -> Outlook:
    """Say how `at` lies between intervals; what touches the span's own edges has no edge that is known."""
    next_open = next((interval.start for interval in intervals if interval.start > at), None)
    for interval in intervals:
        if interval.start <= at < interval.end:
            since = interval.start if interval.start > span.start else None
            until = interval.end if interval.end < span.end else None
            return Outlook(True, since, until, next_open)
    closed_since = max((interval.end for interval in intervals if interval.end <= at), default=None)
    return Outlook(False, closed_since, next_open, next_open)


def next_openings(
    windows: Sequence[Window], at: datetime, count: int, blackouts: Sequence[Blackout] = ()
) -> tuple[Interval, ...]:
    """Return the next `count` times that a window opens after `at`; none when there is no window."""
    found: list[Interval] = []
    moment = at
    while len(found) < count:
        opening = look(windows, moment, blackouts).next_open
        if opening is None:
            break
        end = look(windows, opening, blackouts).until
        if end is None:
            break
        found.append(Interval(opening, end))
        moment = opening
    return tuple(found)


def secs_left(outlook: Outlook, at: datetime) -> float | None:
    """Return how long an open window stays open; None when it has no end in sight."""
    return None if outlook.until is None else (outlook.until - at).total_seconds()


def _has_room(at: datetime) -> bool:
    margin = timedelta(days=32)
    return datetime.min.replace(tzinfo=UTC) + margin < at < datetime.max.replace(tzinfo=UTC) - margin


def _laid_out(windows: Sequence[Window], blackouts: Sequence[Blackout], span: Interval) -> list[Interval]:
    """Return when it is open within a span, in order, cut off at the span's edges."""
    allowed = [span] if not windows else _merged(_occurrences(windows, span))
    for blackout in blackouts:
        day_after = blackout.last + timedelta(days=1)
        start, end = _instant(blackout.first, time(0), blackout.zone), _instant(day_after, time(0), blackout.zone)
        allowed = [piece for interval in allowed for piece in _without(interval, Interval(start, end))]
    cut = (Interval(max(piece.start, span.start), min(piece.end, span.end)) for piece in allowed)
    return [piece for piece in cut if piece.start < piece.end]


def _without(interval: Interval, hole: Interval) -> Iterable[Interval]:
    if hole.end <= interval.start or interval.end <= hole.start:
        return [interval]
    pieces = (Interval(interval.start, hole.start), Interval(hole.end, interval.end))
    return [piece for piece in pieces if piece.start < piece.end]


def _occurrences(windows: Sequence[Window], span: Interval) -> list[Interval]:
    found = []
    for window in windows:
        length = timedelta(seconds=window.duration_secs)
        first = span.start.date() - timedelta(days=min(MARGIN_DAYS, (span.start.date() - date.min).days - 1))
        for shift in range((span.end.date() - first).days + 2):
            day = first + timedelta(days=shift)
            found += [Interval(start, start + length) for start in _starts(window, day)]
    return found


def _starts(window: Window, day: date) -> list[datetime]:
    """Return when a window opens on a day of its zone."""
    calendar = window.calendar
    if calendar is None:
        on_this_day = not window.weekdays or day.weekday() in window.weekdays
        return [_instant(day, window.start, window.zone)] if on_this_day else []
    if not calendar.has(day):
        return []
    return [_instant(day, start, window.zone) for start in calendar.times if _exists(day, start, window.zone)]


def _instant(day: date, start: time, zone: tzinfo) -> datetime:
    """Return when a wall clock shows `start` on a day; fold=0 is the rule of the module's docstring."""
    return datetime.combine(day, start, zone).astimezone(UTC)


def _exists(day: date, start: time, zone: tzinfo) -> bool:
    """Tell whether the zone's clocks show this time on this day."""
    return _instant(day, start, zone).astimezone(zone).time() == start


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda found: found.start):
        if merged and interval.start <= merged[-1].end:
            merged[-1] = Interval(merged[-1].start, max(merged[-1].end, interval.end))
        else:
            merged.append(interval)
    return merged
