"""Spans in arrays: they are what a list of spans is, and the smallest gaps are the ones that are closed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updated.install.ranges import PART_OVERHEAD, Span, Spans, Wanted, coalesce

BOUNDS = st.lists(st.integers(0, 20_000), min_size=1, max_size=40, unique=True).map(sorted)


def spans_of(bounds: list[int]) -> list[Span]:
    """Return disjoint spans between these bounds; with an odd number of them the last has no end."""
    spans = [Span(begin, end) for begin, end in zip(bounds[::2], bounds[1::2], strict=False)]
    return [*spans, Span(bounds[-1])] if len(bounds) % 2 else spans


@given(BOUNDS)
def test_spans_are_a_sequence(bounds: list[int]) -> None:
    """Items, slices, iteration and equality are those of the list."""
    listed = spans_of(bounds)
    spans = Spans(listed)
    assert (len(spans), list(spans), list(spans[1:])) == (len(listed), listed, listed[1:])
    assert spans == Spans(listed)
    assert spans[1:] != spans
    if listed:
        assert spans[-1] == listed[-1]
        assert list(spans.starting_at(7)) == [Span(7, listed[0].end), *listed[1:]]


def test_neighbours_are_joined() -> None:
    """What follows at once makes the last one longer."""
    spans = Spans()
    for begin, end in ((0, 5), (5, 9), (10, 12)):
        spans.append(begin, end)
    assert list(spans) == [Span(0, 9), Span(10, 12)]


@given(BOUNDS, st.integers(1, 20))
def test_smallest_gaps_are_closed(bounds: list[int], most: int) -> None:
    """At most so many are left, nothing that was wanted is lost, and no gap stays that is smaller than a closed one."""
    listed = spans_of(bounds)
    merged = coalesce(Spans(listed), most=most)
    assert merged == coalesce(listed, most=most)
    assert len(merged) <= most
    gaps = [later.begin - (earlier.end or 0) for earlier, later in pairwise(listed)]
    left = [later.begin - (earlier.end or 0) for earlier, later in pairwise(merged)]
    assert all(gap >= PART_OVERHEAD for gap in left)
    closed = sorted(gaps)[: len(gaps) - len(left)]
    assert not left or not closed or max(closed) < min(left)
    assert all(any(_covers(whole, span) for whole in merged) for span in listed)


def _covers(whole: Span, span: Span) -> bool:
    return whole.begin <= span.begin and (whole.end is None or (span.end is not None and span.end <= whole.end))


@given(st.lists(st.integers(0, 400), unique=True).map(sorted), st.integers(1, 50))
def test_what_is_wanted_comes_whatever_the_pieces(bounds: list[int], step: int) -> None:
    """Fed the file front to back, it yields the spans' bytes."""
    data = bytes(number % 251 for number in range(401))
    listed = spans_of(bounds)
    wanted = Wanted(listed)
    found = b"".join(bytes(piece) for at in range(0, 401, step) for piece in wanted.feed(at, data[at : at + step]))
    assert found == b"".join(data[span.begin : span.end] for span in listed)


def test_size_that_is_told_again_and_again_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of an answer tells the file's size: no look at it goes through all that is wanted."""
    wanted = Wanted([Span(at, at + 1) for at in range(0, 2000, 2)])
    looks, get = [], Spans.__getitem__
    monkeypatch.setattr(Spans, "__getitem__", lambda spans, at: looks.append(at) or get(spans, at))
    for _ in range(100):
        wanted.end_at(5000)
    wanted.end_at(4000)
    assert len(looks) <= 4
    with pytest.raises(ValueError, match="1999"):
        wanted.end_at(1998)


@given(BOUNDS, st.integers(0, 25_000))
def test_size_ends_the_span_that_has_no_end(bounds: list[int], size: int) -> None:
    """A size behind all that is wanted ends the last span; a smaller one is refused."""
    listed = spans_of(bounds)
    wanted = Wanted(listed)
    most = max((span.begin if span.end is None else span.end for span in listed), default=0)
    if size < most:
        with pytest.raises(ValueError, match="wanted"):
            wanted.end_at(size)
        return
    wanted.end_at(size)
    ended = [Span(span.begin, size if span.end is None else span.end) for span in listed]
    assert list(wanted.rest()) == [span for span in ended if span.begin != span.end]
