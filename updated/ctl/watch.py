"""Follows the agent: a progress bar with rate and time left on a terminal, one line a change elsewhere."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from updated.common.clock import SystemClock
from updated.ctl import show
from updated.ctl.client import Daemon, Request

RATE_WINDOW_SECS = 10.0  # the rate shown is the mean over this time
CLEAR_LINE = "\r\x1b[K"


class Rate:
    """The mean rate over the last ten seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, at: float, done: int) -> float | None:
        """Take in that `done` bytes were there at `at` (monotonic seconds); return bytes per second."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # another download began
        self._seen.append((at, done))
        while at - self._seen[0][0] > RATE_WINDOW_SECS:
            self._seen.popleft()
        first_at, first_done = self._seen[0]
        return (done - first_done) / (at - first_at) if at > first_at else None


class Painter:
    """Draws status documents as they come."""

    def __init__(self, stream: TextIO, *, on_terminal: bool) -> None:
        self._stream, self._on_terminal = stream, on_terminal
        self._rate, self._clock = Rate(), SystemClock()
        self._last = ""
        self._tenth = -1

    def paint(self, status: Mapping[str, Any]) -> None:
        """Draw one document."""
        if status["state"] not in ("downloading", "verifying"):
            self._tenth = -1
            self._line(show.state_line(status))
            return
        rate = self._rate.update(self._clock.monotonic(), status["bytes_done"])
        if self._on_terminal:
            self._stream.write(CLEAR_LINE + show.bar_line(status, rate))
            self._stream.flush()
            self._last = ""
        elif int(status["progress"] * 10) != self._tenth:  # a log wants a line each ten per cent, not each one
            self._tenth = int(status["progress"] * 10)
            self._line(show.bar_line(status, rate))

    def _line(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        self._stream.write((CLEAR_LINE if self._on_terminal else "") + text + "\n")
        self._stream.flush()


async def follow(daemon: Daemon, *, as_json: bool) -> None:
    """Print every change until interrupted."""
    painter = Painter(sys.stdout, on_terminal=sys.stdout.isatty())
    async for status in daemon.changes():
        if as_json:
            sys.stdout.write(json.dumps(status) + "\n")
            sys.stdout.flush()
        else:
            painter.paint(status)


async def wait_settled(
    daemon: Daemon, request: Request, on_change: Callable[[Mapping[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Make a request and return the status once the agent has worked and come to rest.

    Raises:
        LocalError: UNREACHABLE.
        RefusedError: the daemon is busy, or the user may not.
    """
    changes = daemon.changes()
    await anext(changes)  # subscribed from here on: nothing that follows is missed
    await daemon.ask(request)
    worked = False
    async for status in changes:
        if on_change is not None:
            on_change(status)
        working = status["state"] in show.WORKING
        if worked and not working:
            return status
        worked = worked or working
    raise AssertionError("changes() never ends")
