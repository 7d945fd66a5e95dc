"""locksmith's reboot lock as a world to search, to see that the search finds what is known to be wrong with it.

One document holds max and the holders; it is changed by compare-and-swap on the whole. As its sources have it: a host
that holds already can't lock again ("semaphore is at 0", or "holder exists"), and its daemon unlocks whenever it
starts, in a healthy boot or not. A state is max and one character for each host, sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.model_search import Move

IDLE, WANT, DOWN, UP, ILL = range(5)
PLACES = ("idle", "want", "down", "up", "ill")
LOCK, UNLOCK = 1, 2  # a write under way


@dataclass(frozen=True, slots=True)
class Host:
    """Where a host is, whether the document names it, and what it has under way."""

    place: int
    holds: bool = False
    write: int = 0

    @property
    def char(self) -> str:
        """Return its character."""
        return chr(ord("0") + (self.place | self.holds << 3 | self.write << 4))


def host_of(char: str) -> Host:
    """Read a host's character."""
    bits = ord(char) - ord("0")
    return Host(bits & 7, bool(bits >> 3 & 1), bits >> 4)


@dataclass(frozen=True, slots=True)
class Locksmith:
    """The design; without `unhealthy`, every boot is a good one."""

    hosts: int
    max: int
    unhealthy: bool = True

    def start(self) -> str:
        """Nobody wants anything."""
        return f"{self.max}{Host(IDLE).char * self.hosts}"

    def gone(self, state: str) -> int:
        """Count those that are down or ill."""
        return sum(host_of(char).place in (DOWN, ILL) for char in state[1:])

    def limit(self, state: str) -> int:
        """Return max."""
        return int(state[0])

    def at_rest(self, state: str) -> bool:
        """Nobody holds and nobody wants anything."""
        return all(host_of(char) == Host(IDLE) for char in state[1:])

    def moves(self, state: str) -> Iterator[Move]:
        """Yield what each host may do."""
        free = sum(host_of(char).holds for char in state[1:]) < int(state[0])
        for place, char in enumerate(state[1:], 1):
            others = state[1:place] + state[place + 1 :]
            for name, after, swaps, helps in self._steps(host_of(char), free=free):
                rest = "".join(Host(one.place, one.holds).char for one in map(host_of, others)) if swaps else others
                yield Move(name, state[0] + "".join(sorted(rest + after.char)), helps)

    def show(self, state: str) -> str:
        """Write max and each host."""
        hosts = [f"{PLACES[host.place]}{' holds' if host.holds else ''}" for host in map(host_of, state[1:])]
        return f"max {state[0]}: {'; '.join(hosts)}"

    def _steps(self, host: Host, *, free: bool) -> Iterator[tuple[str, Host, bool, bool]]:
        """Yield name, host, whether the document changes (which makes all other writes void), whether it helps."""
        if host.write:
            yield "a write arrives", Host(host.place, host.write == LOCK), True, False
            yield "a write vanishes", Host(host.place, host.holds), False, True
        if host.place == IDLE:
            yield "wants to reboot", Host(WANT), False, False
        elif host.place == WANT and free and not host.holds:
            yield "locks and goes down", Host(DOWN, holds=True), True, True
            yield "locks, and hears nothing of it", Host(WANT, holds=True), True, False
            yield "sends its lock", Host(WANT, host.holds, LOCK), False, False
        elif host.place == DOWN:
            yield "comes back", Host(UP, host.holds), False, True
            if self.unhealthy:
                yield "comes back ill", Host(ILL, host.holds), False, False
        elif host.place in (UP, ILL):
            yield from self._steps_after_the_boot(host)

    @staticmethod
    def _steps_after_the_boot(host: Host) -> Iterator[tuple[str, Host, bool, bool]]:
        if host.holds:
            yield "unlocks as it starts", Host(host.place), True, True
            yield "sends its unlock", Host(host.place, host.holds, UNLOCK), False, False
        elif host.place == ILL:
            yield "is repaired", Host(IDLE), False, True
        else:
            yield "is done", Host(IDLE), False, True
