"""Brings bytes of a payload from wherever it can: several URLs, cut connections, servers without ranges.

What a server says is checked before a byte is believed to be where it claims: status, Content-Range, length, encoding.
Nothing more than the expected size is ever read.
"""

from __future__ import annotations

import ssl
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpx

from updated.common.text import decimal
from updated.common.urls import URL_LENGTH, is_download_url, shown_url
from updated.common.web import IDENTITY, REDIRECTS, coding_of, reason_of, tls_context, told_by
from updated.errors import ErrorCode, LocalError, RemoteError, Retry
from updated.install.effort import Effort
from updated.install.ranges import (
    PART_HEAD_LIMIT,
    ContentRange,
    Multipart,
    Span,
    Wanted,
    coalesce,
    parse_content_range,
    range_header,
)
from updated.install.wire import WATCH, WideTransport

PIECE = 256 * 1024  # bytes read at once from a file
OK, PARTIAL = 200, 206
# Their header stays below the 4 to 8 KiB that servers take. For more ranges the framework under update-server sends the
# whole file instead, and Apache does for more than 200.
RANGES_PER_REQUEST = 100
MOST_REQUESTS = 40  # for one read; the smallest gaps are fetched too rather than ask more often
FEWEST_REQUESTS = 8  # left for what is missing yet, however many were made
NO_END = 2**62
MOST_REDIRECTS = 5  # of one request, as object stores and the networks in front of them make them
FOLLOWED = (301, 302, 303, 307, 308)
WASTE = 4  # a whole file of more than so many times what is wanted isn't taken without another try


class Source(Protocol):
    """Where a payload, or another file of a release, comes from."""

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        """Yield the bytes of ascending spans, one after the other; a span without an end goes to the last byte.

        Raises:
            UpdateError: they can't be had.
        """
        ...


class FileSource:
    """A payload in a local file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        """Yield the file's bytes; fewer than asked for where it ends early.

        Raises:
            LocalError: DOWNLOAD_TRANSFER.
        """
        try:
            with self._path.open("rb") as file:
                for span in spans:
                    file.seek(span.begin)
                    left = NO_END if span.end is None else span.end - span.begin
                    while left and (piece := file.read(min(PIECE, left))):
                        left -= len(piece)
                        yield memoryview(piece)
        except OSError as error:
            raise LocalError(
                ErrorCode.DOWNLOAD_TRANSFER,
                f"{self._path} can't be read: {error.strerror}",
                hint="Look at the path and its permissions.",
            ) from error


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user, a password, and the hosts that they are for: who names a mirror must not get them by that."""

    user: str
    password: str
    hosts: frozenset[str]  # in lower case


class HttpsOnlyAuth(httpx.BasicAuth):
    """User and password, sent to their hosts, over https and never in the clear (update_engine's rule)."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__(credentials.user, credentials.password)
        self._hosts = credentials.hosts

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header where it is safe."""
        url = request.url
        names = {url.host, url.raw_host.decode("ascii")}  # they differ where it isn't written in ASCII
        if url.scheme == "https" and names & self._hosts:
            yield from super().auth_flow(request)
        else:
            yield request


def make_http(
    *,
    ca_file: Path | None = None,
    proxy: httpx.Proxy | str | None = None,
    timeout_secs: float = 30.0,
    credentials: Credentials | None = None,
) -> httpx.Client:
    """Return a client that follows no redirect, knows no proxy but the configured one, and trusts `ca_file` alone.

    Raises:
        LocalError: CONFIG; the CA file can't be used.
    """
    try:
        verify = tls_context(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(
            ErrorCode.CONFIG, f"the CA file {ca_file} can't be used: {error}", hint="Correct server.ca_file."
        ) from error
    return httpx.Client(
        transport=WideTransport(verify, proxy), timeout=timeout_secs, trust_env=False, follow_redirects=False,
        auth=HttpsOnlyAuth(credentials) if credentials else None,
        headers={**IDENTITY, "User-Agent": "updated"},
    )  # fmt: skip


class HttpSource:
    """A file behind one or more URLs."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        http: httpx.Client,
        expected_size: int | None,
        effort: Effort | None = None,
    ) -> None:
        self._urls, self._http, self._size = list(urls), http, expected_size
        self._effort = effort or Effort()
        self._pace = self._effort.pace
        self._requests_left = MOST_REQUESTS
        self._one_range: set[str] = set()  # URLs whose server can't send several ranges at once
        self._left_whole = False  # whether the last answer was the whole file, and left there

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        """Yield the spans' bytes, ascending; a cut connection is resumed, a failing URL left for the next.

        What failed before is asked last.

        Raises:
            UpdateError: CANCELLED.
            RemoteError: HTTP_STATUS, HTTP_RANGE, HTTP_REDIRECT, PAYLOAD_SIZE_MISMATCH, DOWNLOAD_TOO_SLOW,
                DOWNLOAD_TRANSFER: the last problem, once every URL has used up its tries.
        """
        wanted = Wanted(spans)
        self._take_size(self._size, wanted, "the update server's offer")
        self._pace.resume()
        self._requests_left = MOST_REQUESTS
        urls = self._effort.in_order(self._urls)
        problem: RemoteError | None = None
        for number, url in enumerate(urls):
            self._pace.lend(len(urls) - number)  # one that is just fast enough must not cost the others their time
            try:
                yield from self._read_from(url, wanted)
            except RemoteError as error:
                problem = error
            if wanted.done:
                return
        problem = problem or RemoteError(
            ErrorCode.DOWNLOAD_TRANSFER, "there is no URL to download from", hint="Look at the server's answer."
        )
        problem.everywhere = True
        raise problem

    def _read_from(self, url: str, wanted: Wanted) -> Iterator[memoryview]:
        """Read from one URL until everything is there or its tries are used up.

        Raises:
            RemoteError: the last problem.
        """
        failures = 0
        while not wanted.done:
            before = wanted.rest()
            self._pace.look()
            try:
                for piece in self._get(url, wanted):
                    yield from self._pace.hand_out(piece)
                if wanted.rest() == before and not self._left_whole:
                    raise bad_answer(ErrorCode.HTTP_RANGE, f"{url} sends nothing of what was asked for", later=True)
                self._effort.note_progress(url)
            except RemoteError as error:
                failures = self._failed(url, error, failures, progress=wanted.rest() != before)

    def _failed(self, url: str, error: RemoteError, failures: int, *, progress: bool) -> int:
        """Take in that a try failed; return, after a pause, how many did in a row, or raise where it was the last."""
        if progress:
            self._effort.note_progress(url)
            failures = 0  # progress renews the budget
        else:
            self._pace.resume()  # an outage isn't a slow answer: its tries are counted, not its bytes
        failures += 1
        if error.retry is not Retry.LATER or failures >= self._effort.tries(url):
            if error.retry is Retry.LATER or error.code is ErrorCode.DOWNLOAD_TOO_SLOW:
                self._effort.note_failing(url)  # other errors come at once: asking again costs nothing
            raise error
        self._effort.pause_after(failures)
        return failures

    def _get(self, url: str, wanted: Wanted) -> Iterator[memoryview]:
        """Make one request, follow where it leads, and yield what of the answer is wanted next."""
        asked = self._next_ranges(url, wanted)
        headers = {} if asked[0] == Span(0, self._size) else {"Range": range_header(asked)}
        self._left_whole = False
        where = url
        try:
            for hop in range(MOST_REDIRECTS + 1):
                with self._http.stream(
                    "GET", where, headers=headers, extensions={WATCH: self._pace.wait_secs}
                ) as response:
                    if response.status_code not in FOLLOWED or hop == MOST_REDIRECTS:
                        check_head(response, where)
                        yield from self._body(response, url, asked, wanted)
                        return
                    where = redirected(response, where, also_http=self._effort.also_http)
        except (httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: a host that is no name, as in `a..b`
            said = f"{shown_url(where)} is no URL to download from: {error}"
            raise bad_answer(ErrorCode.DOWNLOAD_TRANSFER, said) from error
        except httpx.HTTPError as error:
            raise RemoteError(
                ErrorCode.DOWNLOAD_TRANSFER,
                f"the download from {shown_url(where)} broke off: {reason_of(error)}",
                hint="Look at the network and the server; the agent tries again by itself.",
                retry=Retry.LATER,
            ) from error

    def _next_ranges(self, url: str, wanted: Wanted) -> list[Span]:
        requests = max(self._requests_left, FEWEST_REQUESTS)
        self._requests_left -= 1
        if url in self._one_range:
            return coalesce(wanted.rest(), most=requests)[:1]
        return coalesce(wanted.rest(), most=requests * RANGES_PER_REQUEST)[:RANGES_PER_REQUEST]

    def _body(self, response: httpx.Response, url: str, asked: Sequence[Span], wanted: Wanted) -> Iterator[memoryview]:
        """Yield from whichever of the three forms the answer has: the whole file, one range, several."""
        if response.status_code == OK:
            length = response.headers.get("Content-Length", "")
            size = decimal(length, NO_END)
            self._check_not_packed(size, response, url)
            self._take_size(size, wanted, url)
            if len(asked) > 1 and size and url not in self._one_range:
                self._one_range.add(url)  # it may send one range rightly: that is tried before the whole is taken
                self._left_whole = size > WASTE * sum((span.end or size) - span.begin for span in wanted.rest())
                if self._left_whole:
                    return
            yield from self._run(response, url, ContentRange(0, size or self._size or NO_END, size), wanted)
            return
        if "Content-Range" in response.headers:
            if len(asked) > 1:
                self._one_range.add(url)
            yield from self._run(response, url, self._range_of(response, url, asked, wanted), wanted)
            return
        before = wanted.rest()
        try:
            yield from self._parts(response, url, asked, wanted)
        except ValueError as error:
            self._one_range.add(url)
            raise bad_answer(ErrorCode.HTTP_RANGE, f"{url}: {error}", later=True) from error
        if wanted.rest() == before:
            self._one_range.add(url)

    def _check_not_packed(self, size: int | None, response: httpx.Response, url: str) -> None:
        """See that another size isn't one of a packed payload; the label alone says nothing, some servers lie there."""
        if size != self._size and self._size is not None and coding_of(response.headers):
            coding = coding_of(response.headers)
            raise bad_answer(ErrorCode.HTTP_STATUS, f"{url} sends the payload packed ({coding}), nobody asked for that")

    def _range_of(self, response: httpx.Response, url: str, asked: Sequence[Span], wanted: Wanted) -> ContentRange:
        """Check the Content-Range of an answer with one range, be it the first of several or all of them in one."""
        said = response.headers["Content-Range"]
        try:
            sent = parse_content_range(said)
        except ValueError as error:
            raise bad_answer(ErrorCode.HTTP_RANGE, f"{url}: {error}") from error
        self._take_size(sent.total, wanted, url)
        ends = {span.end or sent.total for span in (asked[0], asked[-1])}
        if sent.begin != asked[0].begin or sent.end not in ends:
            raise bad_answer(ErrorCode.HTTP_RANGE, f"{url} was asked for {range_header(asked)[:80]} and sends {said}")
        return sent

    def _run(self, response: httpx.Response, url: str, sent: ContentRange, wanted: Wanted) -> Iterator[memoryview]:
        """Yield what is wanted of one run of bytes; leave the rest of it where nothing more is wanted."""
        at = sent.begin
        for raw in response.iter_raw():  # as it comes: a piece of fixed size would be lost in part when the line is cut
            self._pace.note(len(raw))
            if at + len(raw) > sent.end:
                raise bad_answer(
                    ErrorCode.PAYLOAD_SIZE_MISMATCH, f"{url} sends more than {sent.end - sent.begin} bytes"
                )
            yield from wanted.feed(at, raw)
            at += len(raw)
            if wanted.done and at < sent.end:
                return
        if sent.end == NO_END:
            self._take_size(at, wanted, url)
        elif at < sent.end:
            raise bad_answer(ErrorCode.DOWNLOAD_TRANSFER, f"{url} ended after {at} of {sent.end} bytes", later=True)

    def _parts(self, response: httpx.Response, url: str, asked: Sequence[Span], wanted: Wanted) -> Iterator[memoryview]:
        """Yield what is wanted of an answer with several ranges.

        Raises:
            ValueError: it isn't what was asked for.
        """
        multipart = Multipart(response.headers.get("Content-Type", ""))
        allowed = sum((span.end or NO_END) - span.begin + PART_HEAD_LIMIT for span in asked)
        for raw in response.iter_raw():
            self._pace.note(len(raw))
            allowed -= len(raw)
            if allowed < 0:
                raise ValueError("it sends far more than was asked for")
            for part, at, piece in multipart.feed(raw):
                self._take_size(part.total, wanted, url)
                yield from wanted.feed(at, piece)

    def _take_size(self, size: int | None, wanted: Wanted, who: str) -> None:
        """Compare the size that is told with what is known and wanted."""
        if size is None:
            return
        if self._size is not None and size != self._size:
            raise bad_answer(ErrorCode.PAYLOAD_SIZE_MISMATCH, f"{who} has {size} bytes, not {self._size}")
        try:
            wanted.end_at(size)
        except ValueError as error:
            raise bad_answer(ErrorCode.PAYLOAD_SIZE_MISMATCH, f"{who} has {size} bytes: {error}") from error


def check_head(response: httpx.Response, url: str) -> None:
    """Check an answer's status; what it says of an encoding doesn't count, for its bytes are checked as they are.

    Raises:
        RemoteError: HTTP_REDIRECT or HTTP_STATUS.
    """
    status = response.status_code
    if status in (OK, PARTIAL):
        return
    code = ErrorCode.HTTP_REDIRECT if status in REDIRECTS else ErrorCode.HTTP_STATUS
    later = status >= 500 or status in (408, 429)  # noqa: PLR2004
    said = f"{shown_url(url)} answers with status {told_by(status, response.headers)}"
    raise bad_answer(code, said, later=later, status=status)


def redirected(response: httpx.Response, url: str, *, also_http: bool) -> str:
    """Return where a redirect leads, if that is no less safe than where it came from.

    What comes is checked against what is signed wherever it comes from; that it stays within https keeps from others
    what is fetched. Over http it may stay on its host and port; further http needs `download.http_redirects`.

    Raises:
        RemoteError: HTTP_REDIRECT; it leads to http, to another scheme, or nowhere.
    """
    target = urljoin(url, response.headers.get("Location", ""))
    here, there = urlsplit(url), urlsplit(target)
    safe = there.scheme == "https" or also_http or (here.scheme, here.netloc) == ("http", there.netloc)
    if len(target) > URL_LENGTH or not is_download_url(target) or not safe or not response.headers.get("Location"):
        check_head(response, url)
    return str(target.partition("#")[0])


def bad_answer(code: ErrorCode, message: str, *, later: bool = False, status: int | None = None) -> RemoteError:
    """Return the error for what a download server said."""
    return RemoteError(
        code,
        message,
        hint="Look at the download server or mirror; another URL is tried if the update server names one.",
        retry=Retry.LATER if later else Retry.OTHER_SOURCE,
        status=status,
    )
