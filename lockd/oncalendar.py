"""systemd's calendar expressions, as `OnCalendar=` has them (pure): text in, dates and times of day out.

The grammar is the one of systemd.time(7): `[WEEKDAYS] [[YEAR-]MONTH-DAY] [HOUR:MINUTE[:SECOND]] [ZONE]`, or a word such
as `daily`. A part is `*`, or a list of numbers, ranges `a..b` and steps `a/n`; `~` in front of the day counts from the
end of the month, up to 28. What systemd accepts and this doesn't: fractions of a second, `@` and a timestamp, and the
names that only the machine's own zone has (`CET`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, time, timedelta

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
FIRST_YEAR, LAST_YEAR = 1970, 2199  # as far as systemd goes
TEXT_LIMIT = 256  # characters of an expression
_TWICE_A_YEAR = "*-01,07-01 00:00:00"
WORDS = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    "yearly": "*-01-01 00:00:00",
    "annually": "*-01-01 00:00:00",
    **dict.fromkeys(("semiannually", "semi-annually", "biannually", "bi-annually"), _TWICE_A_YEAR),
}
ITEM = re.compile(r"(\d{1,4})(?:\.\.(\d{1,4}))?(?:/(\d{1,4}))?", re.ASCII)
ONE_SECOND = re.compile(r"(?:^|,)0*(\d+)\.\.0*\1(?:,|$)", re.ASCII)
WEEKDAYS = re.compile(r"[A-Za-z]{3}[A-Za-z.,-]*")

Numbers = frozenset[int] | None  # None: any


@dataclass(frozen=True, slots=True)
class Calendar:
    """What an expression says; `day_from_end` tells that `days` count from the end of the month, 1 being the last."""

    weekdays: frozenset[int]  # 0 is Monday; none: any
    years: Numbers
    months: Numbers
    days: Numbers
    day_from_end: bool
    times: tuple[time, ...]  # in order
    zone: str = ""  # IANA name as written; none: the reader's

    def has(self, day: date) -> bool:
        """Tell whether the expression names this date."""
        number = _days_in_month(day) - day.day + 1 if self.day_from_end else day.day
        return (
            (not self.weekdays or day.weekday() in self.weekdays)
            and FIRST_YEAR <= day.year <= LAST_YEAR
            and all(
                allowed is None or value in allowed
                for allowed, value in ((self.years, day.year), (self.months, day.month), (self.days, number))
            )
        )


def parse(text: str, *, limit: int = 86400) -> Calendar:
    """Read an expression that names at most `limit` moments a day.

    Raises:
        ValueError: it is none, or names more; the message says which part.
    """
    if len(text) > TEXT_LIMIT or text != text.strip():
        raise ValueError(f"a calendar expression has at most {TEXT_LIMIT} characters, and no space around it")
    rest, zone = _split_zone(text)
    parts = WORDS.get(rest.lower(), rest).split(" ")
    parts = [part for place, part in enumerate(parts) if part or place == 0]
    weekdays = _weekdays(parts.pop(0)) if WEEKDAYS.fullmatch(parts[0]) else frozenset[int]()
    day_text = "*-*-*" if not parts or ":" in parts[0] else parts.pop(0)
    clock_text = parts.pop(0) if parts else "00:00:00"
    if parts or not rest:
        raise ValueError(f"{text!r} is no calendar expression such as 'Sat *-*-1..7 03:00'")
    years, months, days, from_end = _date(day_text)
    return Calendar(weekdays, years, months, days, from_end, _times(clock_text, limit), zone)


def _split_zone(text: str) -> tuple[str, str]:
    """Split off a zone: in the last of several places nothing else has a letter."""
    rest, space, last = text.rpartition(" ")
    if not space or not last[:1].isalpha() or rest.endswith(" "):
        return text, ""
    return rest, "UTC" if last.lower() == "utc" else last


def _weekdays(text: str) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        first, *others = re.split(r"\.\.|-", item)
        if len(others) > 1:
            raise ValueError(f"{item!r} is no range of weekdays")
        start = _weekday(first)
        end = _weekday(others[0]) if others else start
        if end < start:
            raise ValueError(f"{item!r}: a week begins on Monday here; write two ranges")
        found.update(range(start, end + 1))
    return frozenset(found)


def _weekday(text: str) -> int:
    name = text.lower()
    for place, full in enumerate(DAYS):
        if name in (full, full[:3]):
            return place
    raise ValueError(f"{text!r} is no weekday (Mon, Tue, Wed, Thu, Fri, Sat, Sun)")


def _date(text: str) -> tuple[Numbers, Numbers, Numbers, bool]:
    found = re.fullmatch(r"(?:([^-~]+)-)?([^-~]+)([-~])([^-~]+)", text)
    if not found:
        raise ValueError(f"{text!r} is no date such as *-*-01, 12-24 or *-*~01")
    years = _numbers(_full_years(found[1] or "*"), FIRST_YEAR, LAST_YEAR, "year")
    months = _numbers(found[2], 1, 12, "month")
    from_end = found[3] == "~"
    return years, months, _numbers(found[4], 1, 28 if from_end else 31, "day", downwards=from_end), from_end


def _full_years(text: str) -> str:
    """Write years of two digits in full, as systemd reads them: 70 to 99 are the last century's."""

    def full(found: re.Match[str]) -> str:
        year = int(found[2])
        return f"{found[1]}{year + (2000 if year < FIRST_YEAR % 100 else 1900 if year < 100 else 0)}"  # noqa: PLR2004

    return re.sub(r"(^|,|\.\.)(\d{1,4})", full, text, flags=re.ASCII)


def _times(text: str, limit: int) -> tuple[time, ...]:
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise ValueError(f"{text!r} is no time of day such as 03:00 or *:0/15")
    parts = [*parts, "0"][:3]
    if ONE_SECOND.search(parts[2]):  # systemd refuses it, of seconds alone
        raise ValueError(f"{text!r}: a range has more than one second; write the number alone")
    hours, minutes, seconds = (
        sorted(_all(_numbers(part, 0, last, name), last + 1))
        for part, last, name in zip(parts, (23, 59, 59), ("hour", "minute", "second"), strict=True)
    )
    if len(hours) * len(minutes) * len(seconds) > limit:
        raise ValueError(f"{text!r} names more than {limit} moments a day")
    return tuple(time(hour, minute, second) for hour in hours for minute in minutes for second in seconds)


def _all(numbers: Numbers, count: int) -> frozenset[int]:
    return frozenset(range(count)) if numbers is None else numbers


def _numbers(text: str, low: int, high: int, name: str, *, downwards: bool = False) -> Numbers:
    if text == "*":
        return None
    found: set[int] = set()
    for item in text.split(","):
        read = ITEM.fullmatch(item)
        if not read:
            raise ValueError(f"{name} {item!r} is no number, range a..b or step a/n")
        start, end, step = int(read[1]), int(read[2] or -1), int(read[3] or 0)
        found.update(_series(start, end if read[2] else None, step if read[3] else None, (low, high), downwards))
    return frozenset(found)


def _series(start: int, end: int | None, step: int | None, bounds: tuple[int, int], downwards: bool) -> range:
    """Return the numbers of one item; counted from the month's end, a step goes on towards the end, down to 1."""
    low, high = bounds
    if not low <= start <= high or not (end is None or start <= end <= high) or step == 0:
        raise ValueError(f"{start} or its range or step isn't within {low} to {high}")
    if step is None:
        return range(start, (start if end is None else end) + 1)
    if end is not None:
        return range(start, end + 1, step)
    if start - step < low if downwards else start + step > high:
        raise ValueError(f"a step of {step} from {start} goes past {high}")
    return range(start, low - 1, -step) if downwards else range(start, high + 1, step)


def _days_in_month(day: date) -> int:
    following = day.replace(day=28) + timedelta(days=4)
    return (following - timedelta(days=following.day)).day
