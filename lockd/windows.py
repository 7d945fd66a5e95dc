"""Reboot windows: is one open, until when, and when is the next (pure: windows and a moment in, an outlook out).

A window opens at a wall-clock time of its zone, on chosen weekdays, and stays open for its duration in elapsed time.
Both edges are half open: at the start it is open, at the end it is closed. Where clocks change:

* a start that the clocks skip (02:30 in a spring night) is the same distance after the change (03:30 summer time);
* a start that comes twice (02:30 in an autumn night) is the first of the two;
* the duration isn't stretched or shortened by the change.

No window at all means that it is always open. Windows that overlap or touch count as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

WEEK_SECS = 7 * 24 * 3600
HORIZON_DAYS = 9  # how far an edge is believed: a week, a day for zones, a day for clocks that change
LOOK_DAYS = 2 * HORIZON_DAYS  # how far windows are laid out, so that the last ones' gaps lie beyond the horizon
EDGE_DAYS = 32  # at the ends of the calendar there is no room to look around

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEKDAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
START = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """A time when reboots are allowed; no weekdays means every day."""

    start: time
    duration_secs: int  # 1 to a week
    zone: tzinfo
    weekdays: frozenset[int] = frozenset()  # 0 is Monday


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time, half open, in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the windows say about one moment, in UTC.

    `since` and `until` bound the time in which nothing changes: None when it was or stays so for a week or longer.
    `next_open` is the next opening after the moment, None when there is none to come.
    """

    open: bool
    since: datetime | None
    until: datetime | None
    next_open: datetime | None


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


def look(windows: Sequence[Window], at: datetime) -> Outlook:
    """Return what the windows say about the moment `at` (aware)."""
    at = at.astimezone(UTC)
    if not windows:
        return Outlook(open=True, since=None, until=None, next_open=None)
    if not _has_room(at):
        return Outlook(open=False, since=None, until=None, next_open=None)  # a clock that far off isn't believed
    intervals = _merged(_occurrences(windows, at))
    horizon = at + timedelta(days=HORIZON_DAYS)
    next_open = next((interval.start for interval in intervals if at < interval.start < horizon), None)
    for interval in intervals:
        if interval.start <= at < interval.end:
            return Outlook(True, _near(interval.start, at), _near(interval.end, at), next_open)
    closed_since = max((interval.end for interval in intervals if interval.end <= at), default=None)
    return Outlook(False, closed_since, next_open, next_open)


def next_openings(windows: Sequence[Window], at: datetime, count: int) -> tuple[Interval, ...]:
    """Return the next `count` times that a window opens after `at`; none when there is no window."""
    found: list[Interval] = []
    moment = at
    while len(found) < count:
        opening = look(windows, moment).next_open
        if opening is None:
            break
        end = look(windows, opening).until
        if end is None:
            break
        found.append(Interval(opening, end))
        moment = opening
    return tuple(found)


def secs_left(outlook: Outlook, at: datetime) -> float | None:
    """Return how long an open window stays open; None when it has no end in sight."""
    return None if outlook.until is None else (outlook.until - at).total_seconds()


def _near(edge: datetime, at: datetime) -> datetime | None:
    """Return an edge, or None when it is a week away or more and so only the end of what was looked at."""
    return edge if abs((edge - at).total_seconds()) < WEEK_SECS else None


def _has_room(at: datetime) -> bool:
    margin = timedelta(days=EDGE_DAYS)
    return datetime.min.replace(tzinfo=UTC) + margin < at < datetime.max.replace(tzinfo=UTC) - margin


def _occurrences(windows: Sequence[Window], at: datetime) -> list[Interval]:
    found = []
    for window in windows:
        today = at.astimezone(window.zone).date()
        for shift in range(-LOOK_DAYS, LOOK_DAYS + 1):
            day = today + timedelta(days=shift)
            if not window.weekdays or day.weekday() in window.weekdays:
                start = _instant(day, window)
                found.append(Interval(start, start + timedelta(seconds=window.duration_secs)))
    return found


def _instant(day: date, window: Window) -> datetime:
    """Return when a window opens on a day; fold=0 is the rule of the module's docstring."""
    return datetime.combine(day, window.start, window.zone).astimezone(UTC)


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda found: found.start):
        if merged and interval.start <= merged[-1].end:
            merged[-1] = Interval(merged[-1].start, max(merged[-1].end, interval.end))
        else:
            merged.append(interval)
    return merged
