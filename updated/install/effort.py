"""What the downloads of one install share: their clock and limits, who is told of them, the places that failed.

An install reads many times and from several files. Were each read to begin anew, a mirror that is down would be waited
for at every one of them, and the deadline would never come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from updated.common.clock import SystemClock
from updated.install.pace import FetchLimits, Pace

FAILING_TRIES = 2  # of a place that used up its tries before
PAUSE_SECS = (1.0, 2.0, 5.0, 10.0, 20.0)  # between tries; the last one repeats


class Effort:
    """Hand the same one to all sources of an install."""

    def __init__(
        self,
        limits: FetchLimits | None = None,
        *,
        monotonic: Callable[[], float] | None = None,
        pause: Callable[[float], object] | None = None,
        alive: Callable[[], object] | None = None,
        also_http: bool = False,
    ) -> None:
        """Begin; the deadline counts from here.

        Args:
            limits: when to give up.
            monotonic: the clock.
            pause: waits so many seconds; what it returns is true once the install was cancelled.
            alive: called whenever something happens and before each wait, from the thread that reads; what it raises
                ends the download.
            also_http: whether redirects may lead to http on other hosts.
        """
        self.limits = limits or FetchLimits()
        self.pace = Pace(self.limits, monotonic or SystemClock().monotonic, pause, alive)
        self.also_http = also_http
        self._failing: set[str] = set()

    def in_order(self, urls: Sequence[str]) -> list[str]:
        """Return the URLs, those of places that failed last."""
        return sorted(urls, key=lambda url: place(url) in self._failing)

    def tries(self, url: str) -> int:
        """Return how often in a row a URL may fail."""
        most = self.limits.failures_per_url
        return min(most, FAILING_TRIES) if place(url) in self._failing else most

    def note_failing(self, url: str) -> None:
        """Remember that a URL used up its tries."""
        self._failing.add(place(url))

    def note_progress(self, url: str) -> None:
        """Remember that bytes came from there: it may try as often as any other again."""
        self._failing.discard(place(url))

    def pause_after(self, failures: int) -> None:
        """Wait before the next try.

        Raises:
            UpdateError: CANCELLED.
        """
        self.pace.rest(PAUSE_SECS[min(failures, len(PAUSE_SECS)) - 1])


def place(url: str) -> str:
    """Return the directory that a URL's file is in: a release's files are beside each other, and fail together."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}/{path.rpartition('/')[0]}"
