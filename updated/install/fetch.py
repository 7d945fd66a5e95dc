"""Brings a payload's bytes, in order, from wherever it can: several URLs, cut connections, servers without ranges.

What a server says is checked before a byte is believed to be where it claims: status, Content-Range, length, encoding.
Nothing more than the expected size is ever read.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from updated.common.clock import SystemClock
from updated.errors import ErrorCode, LocalError, RemoteError, Retry

PIECE = 256 * 1024  # bytes read at once from a file
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
OK, PARTIAL = 200, 206
REDIRECTS = range(300, 400)
RETRYABLE_SECS = (1.0, 2.0, 5.0, 10.0, 20.0)  # pauses between tries; the last one repeats


class Source(Protocol):
    """Where a payload comes from."""

    def read_from(self, offset: int) -> Iterator[bytes]:
        """Yield all bytes from `offset` to the end, in order.

        Raises:
            UpdateError: they can't be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """When to give up; times in seconds."""

    deadline_secs: float = 21600.0
    min_bytes_per_sec: int = 1024
    window_secs: float = 60.0  # over which the rate counts
    failures_per_url: int = 10


class FileSource:
    """A payload in a local file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_from(self, offset: int) -> Iterator[bytes]:
        """Yield the file's bytes.

        Raises:
            LocalError: DOWNLOAD_TRANSFER.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                while piece := file.read(PIECE):
                    yield piece
        except OSError as error:
            raise LocalError(
                ErrorCode.DOWNLOAD_TRANSFER,
                f"{self._path} can't be read: {error.strerror}",
                hint="Look at the path and its permissions.",
            ) from error


class HttpsOnlyAuth(httpx.BasicAuth):
    """User and password, sent over https and never in the clear (update_engine's rule)."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header where it is safe."""
        if request.url.scheme == "https":
            yield from super().auth_flow(request)
        else:
            yield request


def make_http(
    *,
    ca_file: Path | None = None,
    proxy: str | None = None,
    timeout_secs: float = 30.0,
    credentials: tuple[str, str] | None = None,
) -> httpx.Client:
    """Return a client that follows no redirect, knows no proxy but the configured one, and trusts `ca_file` alone.

    Raises:
        LocalError: CONFIG; the CA file can't be used.
    """
    try:
        verify = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(
            ErrorCode.CONFIG, f"the CA file {ca_file} can't be used: {error}", hint="Correct server.ca_file."
        ) from error
    return httpx.Client(
        verify=verify, proxy=proxy, timeout=timeout_secs, trust_env=False, follow_redirects=False,
        auth=HttpsOnlyAuth(*credentials) if credentials else None,
        headers={"Accept-Encoding": "identity", "User-Agent": "updated"},
    )  # fmt: skip


class HttpSource:
    """A payload behind one or more URLs."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        http: httpx.Client,
        expected_size: int | None,
        limits: FetchLimits | None = None,
        monotonic: Callable[[], float] | None = None,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._urls, self._http, self._size = list(urls), http, expected_size
        self._limits = limits or FetchLimits()
        self._monotonic = monotonic or SystemClock().monotonic
        self._pause = pause or (lambda _secs: None)

    def read_from(self, offset: int) -> Iterator[bytes]:
        """Yield the payload's bytes; a cut connection is resumed, a failing URL left for the next.

        Raises:
            RemoteError: HTTP_STATUS, HTTP_RANGE, HTTP_REDIRECT, PAYLOAD_SIZE_MISMATCH, DOWNLOAD_TOO_SLOW,
                DOWNLOAD_TRANSFER: the last problem, once every URL has used up its tries.
        """
        pace = Pace(self._limits, self._monotonic)
        problem: RemoteError | None = None
        for url in self._urls:
            failures = 0
            while failures < self._limits.failures_per_url:
                before = offset
                try:
                    for piece in self._get(url, offset):
                        offset += len(piece)
                        pace.note(len(piece))
                        yield piece
                except RemoteError as error:
                    problem = error
                    if error.retry is not Retry.LATER:
                        break
                else:
                    return
                failures = 1 if offset > before else failures + 1  # progress renews the budget
                self._pause(RETRYABLE_SECS[min(failures, len(RETRYABLE_SECS)) - 1])
                pace.check_deadline()
        raise problem or RemoteError(
            ErrorCode.DOWNLOAD_TRANSFER, "there is no URL to download from", hint="Look at the server's answer."
        )

    def _get(self, url: str, offset: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            with self._http.stream("GET", url, headers=headers) as response:
                skip = offset - self._start_of(response, url, offset)
                yield from self._body(response, url, offset - skip, skip)
        except httpx.HTTPError as error:
            raise RemoteError(
                ErrorCode.DOWNLOAD_TRANSFER,
                f"the download from {url} broke off: {str(error) or type(error).__name__}",
                hint="Look at the network and the server; the agent tries again by itself.",
                retry=Retry.LATER,
            ) from error

    def _start_of(self, response: httpx.Response, url: str, offset: int) -> int:
        """Check an answer's head; return the offset that its body begins at."""
        if response.status_code in REDIRECTS:
            raise _bad(ErrorCode.HTTP_REDIRECT, f"{url} redirects to {response.headers.get('Location', 'nowhere')}")
        if response.status_code not in (OK, PARTIAL):
            later = response.status_code >= 500 or response.status_code in (408, 429)  # noqa: PLR2004
            raise _bad(ErrorCode.HTTP_STATUS, f"{url} answers with status {response.status_code}", later=later)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _bad(ErrorCode.HTTP_STATUS, f"{url} sends the payload in another encoding")
        if response.status_code == OK:
            self._check_total(url, response.headers.get("Content-Length"))
            return 0
        found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset or int(found[2]) != int(found[3]) - 1:
            said = response.headers.get("Content-Range")
            raise _bad(ErrorCode.HTTP_RANGE, f"{url} was asked for bytes from {offset} and sends {said}")
        self._check_total(url, found[3])
        return offset

    def _check_total(self, url: str, total: str | None) -> None:
        if total is not None and self._size is not None and total != str(self._size):
            raise _bad(ErrorCode.PAYLOAD_SIZE_MISMATCH, f"{url} has {total} bytes, not {self._size}")

    def _body(self, response: httpx.Response, url: str, at: int, skip: int) -> Iterator[bytes]:
        for raw in response.iter_raw():  # as it comes: a piece of fixed size would be lost in part when the line is cut
            at += len(raw)
            if self._size is not None and at > self._size:
                raise _bad(ErrorCode.PAYLOAD_SIZE_MISMATCH, f"{url} sends more than {self._size} bytes")
            piece = raw[skip:]
            skip = max(0, skip - len(raw))
            if piece:
                yield piece
        if self._size is not None and at < self._size:
            raise _bad(ErrorCode.DOWNLOAD_TRANSFER, f"{url} ended after {at} of {self._size} bytes", later=True)


class Pace:
    """Watches that a download neither takes too long nor drips."""

    def __init__(self, limits: FetchLimits, monotonic: Callable[[], float]) -> None:
        self._limits, self._monotonic = limits, monotonic
        self._began = self._window_began = monotonic()
        self._window_bytes = 0

    def note(self, count: int) -> None:
        """Take in that `count` bytes came.

        Raises:
            RemoteError: DOWNLOAD_TOO_SLOW.
        """
        self._window_bytes += count
        now = self._monotonic()
        elapsed = now - self._window_began
        if elapsed >= self._limits.window_secs:
            if self._window_bytes < self._limits.min_bytes_per_sec * elapsed:
                raise _bad(ErrorCode.DOWNLOAD_TOO_SLOW, f"only {self._window_bytes} bytes came in {elapsed:.0f} s")
            self._window_began, self._window_bytes = now, 0
        self.check_deadline()

    def check_deadline(self) -> None:
        """Look at the whole time.

        Raises:
            RemoteError: DOWNLOAD_TOO_SLOW.
        """
        if self._monotonic() - self._began > self._limits.deadline_secs:
            raise _bad(ErrorCode.DOWNLOAD_TOO_SLOW, f"the download took over {self._limits.deadline_secs:.0f} s")


def _bad(code: ErrorCode, message: str, *, later: bool = False) -> RemoteError:
    return RemoteError(
        code,
        message,
        hint="Look at the download server or mirror; another URL is tried if the update server names one.",
        retry=Retry.LATER if later else Retry.OTHER_SOURCE,
    )
