"""When to ask next (pure): update_engine's figures, with the hosts of a fleet spread out.

First check 7 minutes after the start, spread by 10 minutes; then every 45, spread by 10; a server's PollInterval is
honoured up to 4 hours and spread over half to one and a half times itself; after failures the wait doubles, up to 4
hours, spread by its own length (update_check_scheduler). A payload that failed is left alone for a quarter of an
hour, an hour and six, each half of itself more or less, and then as update_engine does: for a day, two, four, up to 16,
each 6 hours more or less (PayloadState).
"""

from __future__ import annotations

SPREAD_SECS = 600.0
LONGEST_SECS = 4 * 3600.0
DAY_SECS = 24 * 3600.0
EARLY_SECS = (15 * 60.0, 3600.0, 6 * 3600.0)  # what a mirror that was away, or a cut line, costs
BACKOFF_MOST_DAYS = 16
BACKOFF_FUZZ_SECS = 12 * 3600.0  # the whole width
LONGEST_BACKOFF_SECS = BACKOFF_MOST_DAYS * DAY_SECS + BACKOFF_FUZZ_SECS / 2


def next_check_secs(
    *,
    fraction: float,
    first: bool,
    failures: int,
    initial_secs: float,
    interval_secs: float,
    server_interval_secs: int | None,
) -> float:
    """Return the seconds to wait.

    Args:
        fraction: a random number in [0, 1).
        first: no check was made since the start.
        failures: checks that failed in a row.
        initial_secs: wait before the first check.
        interval_secs: wait between checks.
        server_interval_secs: the last answer's PollInterval.
    """
    if first:
        return spread(initial_secs, min(SPREAD_SECS, initial_secs), fraction)
    if failures:
        doubled = min(interval_secs * 2.0 ** min(failures - 1, 16), max(LONGEST_SECS, interval_secs))
        return spread(doubled, doubled, fraction)
    asked = min(float(server_interval_secs or 0), LONGEST_SECS)
    if asked >= interval_secs:
        return spread(asked, asked, fraction)
    return spread(interval_secs, min(SPREAD_SECS, interval_secs), fraction)


def backoff_secs(attempt: int, fraction: float) -> float:
    """Return the seconds for which a payload is left alone after its n-th failed attempt.

    Args:
        attempt: n, from 1.
        fraction: a random number in [0, 1).
    """
    if attempt <= len(EARLY_SECS):
        first = EARLY_SECS[attempt - 1]
        return spread(first, first, fraction)
    days = min(2 ** min(attempt - 1 - len(EARLY_SECS), BACKOFF_MOST_DAYS), BACKOFF_MOST_DAYS)
    return spread(days * DAY_SECS, BACKOFF_FUZZ_SECS, fraction)


def spread(value: float, width: float, fraction: float) -> float:
    """Return a value between `value - width/2` and `value + width/2`."""
    return value - width / 2 + width * fraction
