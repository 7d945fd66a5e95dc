"""Byte ranges of HTTP (RFC 9110, section 14), without I/O: what is wanted, what came, which of it to use."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice, pairwise
from typing import overload

CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
OPEN = 2**64 - 1  # as an end: to the last byte
PART_HEAD_LIMIT = 8192  # bytes of a part's header lines
PART_OVERHEAD = 256  # bytes of head that a part costs on the wire, about


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `begin` up to, and not with, `end`; no end: to the last byte."""

    begin: int
    end: int | None = None


class Spans(Sequence[Span]):
    """Ascending spans, 16 bytes of memory for each: a plan may have ten thousands."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._begins, self._ends = array("Q"), array("Q")
        for span in spans:
            self._begins.append(span.begin)
            self._ends.append(OPEN if span.end is None else span.end)

    def __len__(self) -> int:
        return len(self._begins)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and self._begins == other._begins and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]  # they grow

    @overload
    def __getitem__(self, at: int) -> Span: ...
    @overload
    def __getitem__(self, at: slice) -> Spans: ...
    def __getitem__(self, at: int | slice) -> Span | Spans:
        if isinstance(at, slice):
            part = Spans()
            part._begins, part._ends = self._begins[at], self._ends[at]
            return part
        end = self._ends[at]
        return Span(self._begins[at], None if end == OPEN else end)

    def append(self, begin: int, end: int) -> None:
        """Add one behind the last, which it may follow at once: then that one becomes longer."""
        if self._ends and self._ends[-1] == begin:
            self._ends[-1] = end
        else:
            self._begins.append(begin)
            self._ends.append(end)

    def end_at(self, end: int) -> None:
        """Give the last one an end, if it has none."""
        if self and self._ends[-1] == OPEN:
            self._ends[-1] = end

    def starting_at(self, begin: int) -> Spans:
        """Return the same, but the first one begins here."""
        cut = Spans()
        cut._begins, cut._ends = self._begins[:], self._ends[:]
        if self:
            cut._begins[0] = begin
        return cut


@dataclass(frozen=True, slots=True)
class ContentRange:
    """What a server says that it sends: begin, end (not included), the whole's size or None."""

    begin: int
    end: int
    total: int | None


def parse_content_range(text: str) -> ContentRange:
    """Read a Content-Range header.

    Raises:
        ValueError: it isn't one of bytes, or is none at all.
    """
    found = CONTENT_RANGE.fullmatch(text.strip())
    if not found or int(found[1]) > int(found[2]):
        raise ValueError(f"Content-Range {text!r} is none of bytes")
    total = None if found[3] == "*" else int(found[3])
    if total is not None and int(found[2]) >= total:
        raise ValueError(f"Content-Range {text!r} goes past its end")
    return ContentRange(int(found[1]), int(found[2]) + 1, total)


def coalesce(spans: Sequence[Span], *, most: int) -> list[Span]:
    """Close the smallest gaps between ascending spans until at most `most` are left, and all gaps under PART_OVERHEAD.

    A gap's bytes are fetched for nothing; a range that isn't asked for saves its head, or a whole request.
    """
    largest = PART_OVERHEAD - 1  # of the gaps that are closed
    if len(spans) > most:
        gaps = (later.begin - (earlier.end or later.begin) for earlier, later in pairwise(spans))
        largest = max(largest, nlargest(most, gaps)[-1])
    merged = list(spans[:1])
    for span in islice(spans, 1, None):
        last = merged[-1]
        if last.end is None:
            break
        if span.begin - last.end <= largest:
            merged[-1] = Span(last.begin, span.end)
        else:
            merged.append(span)
    return merged


def range_header(spans: Sequence[Span]) -> str:
    """Return the value of a Range header."""
    return "bytes=" + ",".join(f"{span.begin}-{'' if span.end is None else span.end - 1}" for span in spans)


class Wanted:
    """What is still wanted of a file, front to back; it is fed what comes and yields what of it is next."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = Spans(span for span in spans if span.end is None or span.begin < span.end)
        self._first = 0
        self._at = self._spans[0].begin if self._spans else 0
        self._size: int | None = None  # of the file, once it was told

    @property
    def done(self) -> bool:
        """Whether nothing is wanted any more."""
        return self._first == len(self._spans)

    def rest(self) -> Spans:
        """Return what is wanted, its first span cut to what is missing of it."""
        return self._spans[self._first :].starting_at(self._at)

    def end_at(self, size: int) -> None:
        """Take in how long the file is, where a span was to go to its end.

        Raises:
            ValueError: something is wanted behind it.
        """
        if size == self._size or not self._spans:
            return  # each part of an answer tells it again
        last = self._spans[-1]  # they ascend: none goes further, and no other is without an end
        if (most := last.begin if last.end is None else last.end) > size:
            raise ValueError(f"bytes are wanted up to {most}")
        self._size = size
        self._spans.end_at(size)
        self._skip_ended()

    def feed(self, at: int, data: bytes | memoryview) -> Iterator[memoryview]:
        """Take in the file's bytes from the offset `at`; yield those that are next, in order.

        What lies before or between the wanted spans is dropped, and so is everything behind a byte that is missing.
        """
        view = memoryview(data)
        while view and not self.done and at <= self._at < at + len(view):
            end = self._spans[self._first].end
            piece = view[self._at - at : None if end is None else end - at]
            self._at += len(piece)
            view, at = view[self._at - at :], self._at
            self._skip_ended()
            yield piece

    def _skip_ended(self) -> None:
        while not self.done and self._at == self._spans[self._first].end:
            self._first += 1
            if not self.done:
                self._at = self._spans[self._first].begin


class Multipart:
    """Takes a multipart/byteranges body apart as it comes (RFC 9110, section 14.6)."""

    def __init__(self, content_type: str) -> None:
        """Start.

        Raises:
            ValueError: the content type is another one, or has no boundary.
        """
        found = re.fullmatch(
            r"multipart/byteranges\s*;\s*boundary=\"?([^\";,\s]{1,70})\"?", content_type, re.IGNORECASE
        )
        if not found:
            raise ValueError(f"several ranges were asked for, the answer is {content_type!r}")
        self._boundary = b"--" + found[1].encode("ascii")
        self._head = bytearray()
        self._part = ContentRange(0, 0, None)
        self._at = self._left = 0
        self._ended = False

    def feed(self, raw: bytes) -> Iterator[tuple[ContentRange, int, memoryview]]:
        """Yield pieces of parts: the part's range, the offset of the piece in the file, its bytes.

        Raises:
            ValueError: malformed.
        """
        view = memoryview(raw)
        while view and not self._ended:
            if self._left:
                piece, view = view[: self._left], view[self._left :]
                yield self._part, self._at, piece
                self._at += len(piece)
                self._left -= len(piece)
            else:
                view = self._take_head(view)

    def _take_head(self, view: memoryview) -> memoryview:
        """Take in lines up to the empty one that a part's bytes follow; return what is behind it."""
        before = len(self._head)
        self._head += view[:PART_HEAD_LIMIT]
        start = self._head.find(self._boundary)
        if start >= 0 and self._head[start + len(self._boundary) :].startswith(b"--"):
            self._ended = True
            return view[:0]
        end = self._head.find(b"\r\n\r\n", max(start, 0))
        if start < 0 or end < 0:
            if len(self._head) > PART_HEAD_LIMIT:
                raise ValueError("a part's head is endless")
            return view[PART_HEAD_LIMIT:]
        self._begin_part(bytes(self._head[start:end]))
        self._head.clear()
        return view[end + 4 - before :]

    def _begin_part(self, head: bytes) -> None:
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-range":
                self._part = parse_content_range(value.decode("latin-1"))
                self._at, self._left = self._part.begin, self._part.end - self._part.begin
                return
        raise ValueError("a part has no Content-Range")
