"""The order in which an install is carried out: nothing waits for the line but what comes over it."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from updated.install.todo import NO_CHUNK, PartTodos, as_data_come, in_order
from updated.payload.manifest import Extent, Operation, OpType, Partition

DATA = 100  # bytes of each operation that has any


def part(kinds: list[str]) -> PartTodos:
    """Return one operation of each kind: from the payload, put together from what is here, or from nothing."""
    types = [OpType.ZERO if kind == "nothing" else OpType.REPLACE for kind in kinds]
    operations = tuple(
        Operation(kind, 0, 0 if kind is OpType.ZERO else DATA, b"", (), 0, (Extent(at, 1),), 4096)
        for at, kind in enumerate(types)
    )
    chunks = array("i", [at if kind == "here" else NO_CHUNK for at, kind in enumerate(kinds)])
    return PartTodos(Partition("root", operations, None, None), range(len(kinds)), chunks)


kinds = st.lists(st.sampled_from(["payload", "here", "nothing"]), max_size=40)


@given(kinds, st.lists(st.booleans(), max_size=60))
def test_what_is_here_overtakes_what_is_waited_for_and_nothing_else_does(written: list[str], come: list[bool]) -> None:
    """Everything is done once; of two only one without data comes before one with; what is told to be done, is."""
    answers = iter(come)
    yielded: list[int] = []
    for done, todo in as_data_come(part(written), lambda length: length == DATA and next(answers, False)):
        yielded.append(todo.number)
        assert set(range(done)) <= set(yielded)
        assert done == len(written) or done not in yielded
    assert sorted(yielded) == list(range(len(written)))
    for place, number in enumerate(yielded):
        overtaken = [other for other in yielded[place:] if other < number]
        assert not overtaken or written[number] != "payload"
        assert {written[other] for other in overtaken} <= {"payload"}


@given(kinds)
def test_order_is_the_payloads_when_data_are_there(written: list[str]) -> None:
    """A line that is fast enough changes nothing."""
    assert list(as_data_come(part(written), lambda _length: True)) == list(in_order(part(written)))


@given(kinds)
def test_what_is_here_is_done_while_nothing_comes(written: list[str]) -> None:
    """A line that stands still holds up only what comes over it."""
    order = [written[todo.number] == "payload" for _, todo in as_data_come(part(written), lambda _length: False)]
    assert order == sorted(order)
