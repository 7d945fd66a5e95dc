"""When it is a host's turn in a window (pure): hosts that waited for it to open are spread by a hash of their ids.

A host that waits already when the window opens would ask for its reboot together with all others that do; so each
starts at its own fraction of the spread. For every window that it waited through without its turn, the fraction is
halved, so that it comes earlier in the next. A host whose need comes while the window is open goes at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from lockd.windows import Blackout, Outlook, Window, next_openings

MISSED_LIMIT = 6  # after so many windows the fraction is next to nothing


def fraction_of(machine_id: str) -> float:
    """Return a host's place, 0 up to 1, evenly spread over ids and the same at every time."""
    digest = hashlib.sha256(f"lockd window {machine_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2.0**64


def missed_windows(windows: Sequence[Window], blackouts: Sequence[Blackout], since: datetime, now: datetime) -> int:
    """Return how many windows closed since a host waits, up to `MISSED_LIMIT`; one that was open at `since` counts."""
    openings = next_openings(windows, since - timedelta(seconds=1), MISSED_LIMIT, blackouts)
    return sum(opening.end <= now for opening in openings)


def turn_in(
    outlook: Outlook, *, fraction: float, spread_secs: float, needed_secs: float, missed: int
) -> datetime | None:
    """Return when the turn comes in the window that is open; None when it has no beginning or nothing to spread.

    `needed_secs` at the end are left out of the spread, for a reboot doesn't begin in them.
    """
    if not outlook.open or outlook.since is None or spread_secs <= 0:
        return None
    room = spread_secs
    if outlook.until is not None:
        room = min(room, (outlook.until - outlook.since).total_seconds() - needed_secs)
    return outlook.since + timedelta(seconds=max(room, 0.0) * fraction / 2**missed)
