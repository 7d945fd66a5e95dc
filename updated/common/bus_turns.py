"""Whose call on D-Bus is answered next (pure): every caller gets its turn, and all of them together have a rate."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
EACH = 8  # calls of one caller that wait; a person's commands make one after the other
CALLERS = 512  # a user has at most 256 connections to the system bus


class Turns(Generic[T]):
    """Calls that wait, by caller; who makes many waits for all who make few, and never the other way round."""

    def __init__(self, each: int = EACH, callers: int = CALLERS) -> None:
        self._each, self._callers = each, callers
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def put(self, caller: str, call: T) -> bool:
        """Let a call wait for its turn; False when its caller has too many there, or there are too many callers."""
        if caller not in self._waiting and len(self._waiting) >= self._callers:
            return False
        calls = self._waiting.setdefault(caller, deque())
        if len(calls) >= self._each:
            return False
        calls.append(call)
        return True

    def take(self) -> T | None:
        """Return the first call of the caller whose turn it is; None when nobody waits."""
        if not self._waiting:
            return None
        caller, calls = self._waiting.popitem(last=False)
        call = calls.popleft()
        if calls:
            self._waiting[caller] = calls  # at the end of the line
        return call


class Rate:
    """So many a second, with some in a row for free after a rest."""

    def __init__(self, per_sec: float, burst: float, monotonic: Callable[[], float]) -> None:
        self._per_sec, self._burst, self._monotonic = per_sec, burst, monotonic
        self._left, self._at = burst, monotonic()

    def wait_secs(self) -> float:
        """Take one and return 0, or return the seconds until there is one."""
        now = self._monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_sec)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_sec
