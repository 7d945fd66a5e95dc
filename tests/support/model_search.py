"""Visits every state that a small world can get into: is any of them unsafe, and can each come to rest?

A world is any design of a reboot lock, written as moves from state to state. States are strings: short ones, since
there are millions, and in a canonical form, so that two that differ by the names of the hosts only are one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol


class Move(NamedTuple):
    """One thing that may happen."""

    name: str
    after: str
    helps: bool  # what happens by itself when nothing goes wrong, or what an operator is told to do
    asked: bool = True  # False: nobody decided it (max was lowered, a host crashed), so no lock could prevent it


class Design(Protocol):
    """A way to coordinate reboots."""

    def start(self) -> str:
        """Return the first state."""
        ...

    def moves(self, state: str) -> Iterator[Move]:
        """Yield everything that may happen next; what helps most first."""
        ...

    def gone(self, state: str) -> int:
        """Return how many hosts are down, unwell after they went down, or may go down at any moment."""
        ...

    def limit(self, state: str) -> int:
        """Return how many may be."""
        ...

    def at_rest(self, state: str) -> bool:
        """Tell whether nobody wants anything and nobody holds anything."""
        ...

    def show(self, state: str) -> str:
        """Write a state for people."""
        ...


class Found(NamedTuple):
    """What a search saw; a trace leads to the first state that is unsafe, or from which nothing leads to rest."""

    states: int
    unsafe: tuple[str, ...] | None
    stuck: int
    stuck_trace: tuple[str, ...] | None = None


class Search:
    """One exhaustive search, breadth first, so that a trace is as short as can be."""

    def __init__(self, design: Design) -> None:
        self._design = design
        self._places: dict[str, int] = {}
        self._states: list[str] = []
        self._parents = array("I")
        self._restful = bytearray()
        self._gone = bytearray()

    def run(self) -> Found:
        """Visit everything; stop at the first unsafe state."""
        design, states, places = self._design, self._states, self._places
        self._add(design.start(), 0)
        place = 0
        while place < len(states):
            before = self._gone[place]
            for move in design.moves(states[place]):
                there = places.get(move.after)
                if there is None:
                    there = self._add(move.after, place)
                after = self._gone[there]
                if after > before and move.asked and after > design.limit(move.after):
                    return Found(len(states), (*self._trace(place), f"{move.name}: {design.show(move.after)}"), 0)
            place += 1
        stuck = [place for place in range(len(states)) if not self._can_rest(place)]
        return Found(len(states), None, len(stuck), self._trace(stuck[0]) if stuck else None)

    def _add(self, state: str, parent: int) -> int:
        place = self._places[state] = len(self._states)
        self._states.append(state)
        self._parents.append(parent)
        self._restful.append(0)
        self._gone.append(self._design.gone(state))
        return place

    def _trace(self, place: int) -> tuple[str, ...]:
        steps = [place]
        while steps[-1]:
            steps.append(self._parents[steps[-1]])
        steps.reverse()
        lines = []
        for earlier, later in pairwise(steps):
            after = self._states[later]
            name = next(move.name for move in self._design.moves(self._states[earlier]) if move.after == after)
            lines.append(f"{name}: {self._design.show(after)}")
        return tuple(lines)

    def _can_rest(self, start: int) -> bool:
        """Follow the moves that help until a state is reached that is known to lead to rest."""
        path, ways, seen = [start], [self._helping(start)], {start}
        while path:
            if self._restful[path[-1]] or self._design.at_rest(self._states[path[-1]]):
                for place in path:
                    self._restful[place] = 1
                return True
            following = next((place for place in ways[-1] if place not in seen), None)
            if following is None:
                path.pop()
                ways.pop()
            else:
                seen.add(following)
                path.append(following)
                ways.append(self._helping(following))
        return False

    def _helping(self, place: int) -> Iterator[int]:
        return (self._places[move.after] for move in self._design.moves(self._states[place]) if move.helps)
