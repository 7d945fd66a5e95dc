"""Watches a download's speed: neither too long nor a drip, and no faster than allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from updated.errors import ErrorCode, RemoteError, Retry, UpdateError

LEAD_SECS = 0.05  # pauses shorter than this aren't worth making: the limit is kept on average
SLICE_SECS = 2.0  # the longest wait between two signs of life: far less than a watchdog allows, or who stops the daemon
BRIEFEST_SECS = 0.01  # a socket takes no time at all for "don't wait"


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """When to give up, and how fast to be at most; times in seconds."""

    deadline_secs: float = 21600.0
    min_bytes_per_sec: int = 1024
    max_bytes_per_sec: int = 0  # 0: as fast as it comes
    window_secs: float = 60.0  # over which the lowest rate counts
    failures_per_url: int = 10


class Pace:
    """The clock of one install's downloads."""

    def __init__(
        self,
        limits: FetchLimits,
        monotonic: Callable[[], float],
        pause: Callable[[float], object] | None = None,
        alive: Callable[[], object] | None = None,
    ) -> None:
        self._limits, self._monotonic = limits, monotonic
        self._pause, self._alive = pause or (lambda _secs: None), alive or (lambda: None)
        self._began = self._window_began = monotonic()
        self._window_bytes = 0
        self._free_at = self._began  # when the limit allows the next byte
        self._lent_until = self._began + limits.deadline_secs

    def resume(self) -> None:
        """Begin a new window: time in which nothing was asked for isn't the server's."""
        self._window_began, self._window_bytes = self._monotonic(), 0

    def lend(self, places: int) -> None:
        """Give the place that is asked now its share of the time that is left: as much as each of so many gets."""
        ends = self._began + self._limits.deadline_secs
        now = self._monotonic()
        self._lent_until = ends if places <= 1 else now + (ends - now) / places

    def note(self, count: int) -> None:
        """Take in that `count` bytes came, wanted or not; wait if they came too fast.

        Raises:
            RemoteError: DOWNLOAD_TOO_SLOW.
            UpdateError: CANCELLED; what the sign of life raises.
        """
        self._window_bytes += count
        self.look()
        if self._limits.max_bytes_per_sec:
            self._hold_back(count)

    def look(self) -> None:
        """Give a sign of life, then see whether it is worth going on.

        Raises:
            RemoteError: DOWNLOAD_TOO_SLOW.
            UpdateError: what the sign of life raises.
        """
        self._alive()
        now = self._monotonic()
        elapsed = now - self._window_began
        if elapsed >= self._limits.window_secs:
            if self._window_bytes < self._limits.min_bytes_per_sec * elapsed:
                raise too_slow(f"only {self._window_bytes} bytes came in {elapsed:.0f} s")
            self._window_began, self._window_bytes = now, 0
        if now - self._began > self._limits.deadline_secs:
            raise too_slow(f"the download took over {self._limits.deadline_secs:.0f} s")
        if now > self._lent_until:
            raise too_slow("the download took longer than one of several mirrors may")

    def wait_secs(self, timeout: float) -> float:
        """Look, and return how long of `timeout` the wire may be waited for until the next look.

        Raises:
            RemoteError: DOWNLOAD_TOO_SLOW.
            UpdateError: what the sign of life raises.
        """
        self.look()
        ends = min(self._began + self._limits.deadline_secs, self._lent_until)
        left = ends - self._monotonic()
        return max(BRIEFEST_SECS, min(timeout, left, SLICE_SECS))

    def rest(self, secs: float) -> None:
        """Wait, with signs of life; this time isn't the server's.

        Raises:
            RemoteError: DOWNLOAD_TOO_SLOW.
            UpdateError: CANCELLED; what the sign of life raises.
        """
        while secs > 0:
            self.look()
            part, before = min(secs, SLICE_SECS), self._monotonic()
            if self._pause(part):
                raise UpdateError(ErrorCode.CANCELLED, "the download was cancelled", hint="Start it again when wanted.")
            self._window_began += self._monotonic() - before
            secs -= part

    def _hold_back(self, count: int) -> None:
        now = self._monotonic()
        self._free_at = max(self._free_at, now) + count / self._limits.max_bytes_per_sec
        if self._free_at - now > LEAD_SECS:
            self.rest(self._free_at - now)

    def hand_out(self, piece: memoryview) -> Iterator[memoryview]:
        """Yield a piece; the time until the next one is wanted isn't the server's."""
        before = self._monotonic()
        yield piece
        self._window_began += self._monotonic() - before


def too_slow(message: str) -> RemoteError:
    """Return the error for a download that isn't worth waiting for."""
    return RemoteError(
        ErrorCode.DOWNLOAD_TOO_SLOW,
        message,
        hint="Look at the network and the server, or at the limits in the settings' [download].",
        retry=Retry.OTHER_SOURCE,
    )
