"""What is still to be carried out: operations by their numbers, read from the manifest whenever they are looked at."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

from updated.payload.manifest import Operation, Partition

NO_CHUNK = -1


class Todo(NamedTuple):  # made for each operation as it comes by
    """One operation that is still to be carried out."""

    op: Operation
    target: str  # the partition's name
    number: int  # among the partition's operations
    chunk: int | None = None  # of the index: put it together from what is here; None: from the payload, or from nothing

    @property
    def needs_data(self) -> bool:
        """Whether bytes of the payload must come before it can be carried out."""
        return self.chunk is None and self.op.data_length > 0


@dataclass(frozen=True, slots=True)
class PartTodos:
    """Which of a partition's operations, ascending; where some are put together, 8 bytes of memory for each."""

    partition: Partition
    numbers: Sequence[int]
    chunks: array[int] | None = None  # for each number its chunk, or NO_CHUNK; None: there is none

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Todo]:
        operations, name = self.partition.operations, self.partition.name
        chunks: Iterable[int] = repeat(NO_CHUNK) if self.chunks is None else self.chunks
        for number, chunk in zip(self.numbers, chunks, strict=False):
            yield Todo(operations[number], name, number, None if chunk == NO_CHUNK else chunk)


@dataclass(frozen=True, slots=True)
class Todos:
    """What is to be done, in the payload's order; it can be iterated as often as it is needed."""

    parts: tuple[PartTodos, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Todo]:
        for part in self.parts:
            yield from part

    def of(self, names: Collection[str]) -> Todos:
        """Return what of it belongs to these partitions."""
        return Todos(tuple(part for part in self.parts if part.partition.name in names))


def in_order(part: PartTodos) -> Iterator[tuple[int, Todo]]:
    """Yield what is to be done, each with how many are done when it and all that came before it are."""
    return enumerate(part, 1)


def as_data_come(part: PartTodos, has: Callable[[int], bool]) -> Iterator[tuple[int, Todo]]:
    """Yield what is to be done: in order, but what needs no data of the payload overtakes what waits for them.

    What may be put together from the target is in time still, for nothing overtakes it: neither its like nor data.

    Args:
        part: of a partition in which no operation reads or writes what another one wrote.
        has: tells whether so many bytes of data have come.

    Yields:
        Each with how many of all, from the first one on, are done when it and all that were yielded before it are.
    """
    waiting = (found for found in enumerate(part) if found[1].needs_data)
    free = (found for found in enumerate(part) if not found[1].needs_data)
    behind, ahead = next(waiting, None), next(free, None)
    while True:
        if ahead is not None and (behind is None or ahead[0] < behind[0] or not has(behind[1].op.data_length)):
            todo, ahead = ahead[1], next(free, None)
        elif behind is not None:
            todo, behind = behind[1], next(waiting, None)
        else:
            return
        yield min(len(part) if left is None else left[0] for left in (behind, ahead)), todo


def all_of(partition: Partition, first: int = 0) -> PartTodos:
    """Return all operations of a partition, from one on."""
    return PartTodos(partition, range(first, len(partition.operations)))
