"""After a drain or a reboot that failed: how long nothing is tried again (pure: times are passed in).

The rule: the first time `first_secs`, twice as long after each further failure in a row, six hours at most. The row
ends when a reboot was accepted, when none is wanted any more, when another version waits, or when a person asks.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from lockd.errors import LockdError
from lockd.gates import Blocker

LIMIT_SECS = 6 * 3600.0
ROW_LIMIT = 32  # so that the power stays a number


class Setback:
    """The failures in a row, and the blocker that they are meanwhile."""

    def __init__(self, first_secs: float) -> None:
        self._first_secs = first_secs
        self._in_row = 0
        self._until = 0.0  # monotonic
        self._version = ""
        self._blocker: Blocker | None = None

    def add(self, name: str, error: LockdError, *, version: str, now: datetime, monotonic: float) -> float:
        """Take in that `name` failed on the way to `version`; return for how many seconds that blocks."""
        self._in_row = min(self._in_row + 1, ROW_LIMIT) if version == self._version else 1
        secs = min(self._first_secs * 2.0 ** (self._in_row - 1), max(LIMIT_SECS, self._first_secs))
        ends = f"{error.hint} It is tried again by itself, or at once by `lockctl reboot`"
        self._blocker = Blocker(name, f"{error.message} [{error.name}]", ends, ends_at=now + timedelta(seconds=secs))
        self._until, self._version = monotonic + secs, version
        return secs

    def blocker(self, version: str, monotonic: float) -> tuple[Blocker, ...]:
        """Return what blocks the way to `version` at this moment."""
        if self._blocker is None or version != self._version or monotonic >= self._until:
            return ()
        if self._in_row == 1:
            return (self._blocker,)
        return (replace(self._blocker, reason=f"{self._blocker.reason} ({self._in_row} times in a row)"),)

    def clear(self) -> None:
        """The row is over."""
        self._in_row, self._blocker = 0, None
