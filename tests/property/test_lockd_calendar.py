"""Calendar expressions against systemd itself: `systemd-analyze calendar` says when each elapses.

In three places systemd's answer isn't what the expression says, and docs/reboot-windows.md says what holds here.
Systemd is asked so that none shows: steps are written out for it, and what it says of an hour's second pass is left
out, and so is its no to several days that are counted from the end of a month.
"""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lockd.config import STARTS_A_DAY
from lockd.oncalendar import WORDS, parse
from lockd.windows import Window, next_openings
from tests.support.campaign import scale

pytestmark = pytest.mark.timeout(scale(300, 4 * 3600))
COUNT = 4
SECOND = timedelta(seconds=1)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
SEVERAL_FROM_END = re.compile(r"~\S*,")
STEP = re.compile(r"(?<![\d.])(\d+)/(\d+)")
SIGHT = timedelta(days=3600)  # next_openings looks ten years ahead, systemd until 2199
MOMENT = re.compile(r"^\s*(?:Next elapse|Iter\. #\d+): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC$", re.MULTILINE)


def systemd_says(text: str, base: datetime) -> list[datetime] | None:
    """Return when systemd elapses next, but for second passes; None when it refuses the expression."""
    found, plain = ask_systemd(text, base - SECOND), without_steps(text)
    if found is not None and plain != text:
        found = ask_systemd(plain, base - SECOND)
    if found is None:
        return None
    zone = ZoneInfo(zone_of(text))
    once = [moment for moment in found if moment.astimezone(zone).fold == 0]
    # windows of a second that touch are one, and one that is open at the base doesn't open after it
    return [moment for moment in once if moment - SECOND not in once and moment > base]


def zone_of(text: str) -> str:
    last = text.rsplit(" ", maxsplit=1)[-1]
    return last if last in ZONES else "UTC"


def without_steps(text: str) -> str:
    """Write the steps `a/n` of hours, minutes and seconds as the numbers that they name."""
    return " ".join(clock_without_steps(part) if ":" in part else part for part in text.split(" "))


def clock_without_steps(text: str) -> str:
    hours, *others = text.split(":")
    return ":".join([written_out(hours, 24), *(written_out(other, 60) for other in others)])


def written_out(text: str, end: int) -> str:
    return STEP.sub(lambda found: ",".join(map(str, range(int(found[1]), end, int(found[2])))), text)


def ask_systemd(text: str, base: datetime) -> list[datetime] | None:
    """Return when systemd says that it elapses next; None when it refuses the expression."""
    argv = ["systemd-analyze", "calendar", f"--base-time={base:%Y-%m-%d %H:%M:%S} UTC", f"--iterations={COUNT}", text]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    )
    if done.returncode != 0:
        assert "Failed to parse" in done.stderr, done.stderr
        return None
    return [datetime.strptime(found, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for found in MOMENT.findall(done.stdout)]


def we_say(text: str, base: datetime) -> list[datetime] | None:
    try:
        calendar = parse(text)
        zone = ZoneInfo(calendar.zone or "UTC")
    except (ValueError, ZoneInfoNotFoundError, OSError):
        return None
    if len(calendar.times) > STARTS_A_DAY:
        return []  # a policy refuses it: only whether systemd takes it for an expression is compared
    window = Window(time(0), 1, zone, calendar=calendar)
    return [opening.start for opening in next_openings([window], base, COUNT)]


def is_too_often(text: str) -> bool:
    return len(parse(text).times) > STARTS_A_DAY


def item(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ranges = st.tuples(number, number).map(lambda pair: f"{min(pair)}..{max(pair)}")
    steps = st.tuples(st.one_of(number.map(str), ranges), st.integers(1, max(high // 2, 2)))
    return st.one_of(
        number.map(str), number.map(lambda n: f"{n:02}"), ranges, steps.map(lambda pair: "/".join(map(str, pair)))
    )


def part(low: int, high: int) -> st.SearchStrategy[str]:
    return st.one_of(st.just("*"), st.lists(item(low, high), min_size=1, max_size=3).map(",".join))


NAMES = ["Mon", "tue", "WED", "Thursday", "fri", "Sat", "sunday"]
weekdays = st.one_of(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(",".join),
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from(["..", "-"])).map(
        lambda found: f"{NAMES[found[0]]}{found[2]}{NAMES[found[1]]}"
    ),
)
dates = st.builds(
    lambda year, month, tilde, day: f"{year}{month}{tilde}{day}",
    st.one_of(st.just(""), st.just("*-"), part(2026, 2032).map(lambda text: f"{text}-")),
    part(1, 12), st.sampled_from("---~"), part(1, 31),
)  # fmt: skip
# a few moments a day, so that the oracle and we compare days and not seconds
clocks = st.one_of(
    st.builds(lambda hour, minute: f"{hour}:{minute}", part(0, 23), item(0, 59)),
    st.builds(lambda hour, minute, second: f"{hour}:{minute}:{second}", part(0, 23), item(0, 59), item(0, 59)),
)
zones = st.sampled_from(ZONES)
expressions = st.one_of(
    st.sampled_from(sorted(WORDS)),
    st.tuples(st.one_of(st.just(""), weekdays), st.one_of(st.just(""), dates), st.one_of(st.just(""), clocks),
              st.one_of(st.just(""), zones)).map(lambda parts: " ".join(filter(None, parts))),
)  # fmt: skip
CHANGES = [
    datetime(2026, 3, 28, 12, tzinfo=UTC),
    datetime(2026, 10, 24, 12, tzinfo=UTC),
    datetime(2026, 11, 1, tzinfo=UTC),
]
bases = st.one_of(
    st.integers(0, 4 * 365 * 1440).map(lambda minutes: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)),
    st.sampled_from(CHANGES),
)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # each example starts a program: no shrinking
CAREFUL = settings(
    # the campaign looks for what systemd reads in another way; CI compares the same expressions each time
    derandomize=bool(scale(1, 0)),
    max_examples=scale(60, 3_000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=PHASES,
)


@CAREFUL
@given(expressions, bases)
def test_expressions_elapse_when_systemd_says(text: str, base: datetime) -> None:
    """Each expression opens its window at the moments at which systemd's own evaluation elapses, clock changes too."""
    expected, found = systemd_says(text, base), we_say(text, base)
    if expected is None and SEVERAL_FROM_END.search(text):
        return
    if expected is None or found is None:
        assert (expected, found) == (None, None), text
        return
    if not is_too_often(text):
        expected = [moment for moment in expected if moment - base < SIGHT]
        assert [moment for moment in found if moment - base < SIGHT][: len(expected)] == expected


SLIPS = "0123456789*/,.-~: aMonUTC"


@CAREFUL
@given(expressions, st.integers(0, 40), st.sampled_from(SLIPS), st.booleans(), st.sampled_from(CHANGES))
def test_a_slip_is_never_taken_for_something_else(
    text: str, place: int, slip: str, insert: bool, base: datetime
) -> None:
    """With one character wrong an expression is refused, or it means what systemd understands too."""
    changed = text[:place] + slip + text[place + (0 if insert else 1) :]
    found = we_say(changed, base)
    if found is None:
        return
    expected = systemd_says(changed, base)
    if expected is None and SEVERAL_FROM_END.search(changed):
        return
    assert expected is not None, f"{changed!r} is accepted here only"
    if is_too_often(changed):
        return
    found, expected = ([moment for moment in moments if moment - base < SIGHT] for moments in (found, expected))
    assert found[: len(expected)] == expected
