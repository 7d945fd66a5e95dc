"""The reboot tickets as a world to search: hosts, a store, and everything that can go wrong between them.

The rules are the product's (`lockd.tickets`). What is modelled is what surrounds them: each step of a host reads, then
sends one conditional write, which arrives at once, or after any time, or never, or twice, while its sender may look and
send again, crash, or go on with something else. A stale read is such a write too: it was decided on what once was.

A write demands revisions that never come back once they changed. So one that no longer fits does nothing forever, and
is left out: of each kind, a host has at most one write under way that can still do something. For the same reason only
the order of the tickets needs to be kept, and hosts without a ticket differ by nothing but what they do.

A state is a string: max, pause, the hosts with tickets in the order of the queue, a bar, the others, sorted. A host is
one character: where it is, the phase of its ticket, and a bit for each kind of write under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from lockd.tickets import Claim, Group, GroupSettings, Pause, Phase, Ticket, may_go_down, may_take
from tests.support.model_search import Found, Move, Search

Rule = Callable[[Group, Ticket], bool]

# off: crashed; up: healthy again; ill: rolled back; sick: likewise, but after a crash, so that no lock was asked before
PLACES = ("idle", "want", "off", "down", "up", "ill", "sick")
IDLE, WANT, OFF, DOWN, UP, ILL, SICK = range(7)
PHASES = (Phase.WAITING, Phase.HELD, Phase.REBOOTING, Phase.ROLLED_BACK)
NONE, WAITING, HELD, REBOOTING, ROLLED = range(5)
WRITES = ("queue", "take", "commit", "undo", "release", "mark")
QUEUE, TAKE, COMMIT, UNDO, RELEASE, MARK = (1 << bit for bit in range(6))
BECOMES = {TAKE: HELD, COMMIT: REBOOTING, UNDO: HELD, MARK: ROLLED}  # what a write makes of its ticket's phase
NEED_SETTINGS = TAKE | COMMIT  # these demand the settings that were seen, the others the ticket only
BAR = "|"
BASE = 0x1000  # out of the way of the bar


@dataclass(frozen=True, slots=True)
class Bounds:
    """How big a world to search."""

    hosts: int
    limits: tuple[int, ...]  # the first one at the start; set-max moves among them
    in_transit: int = 99  # writes under way at once
    leases_on_holders: bool = False  # the design of a lock with a lease, to see that the search finds its fault
    crashes: bool = True


@dataclass(frozen=True, slots=True)
class Host:
    """One host as its character says."""

    place: int
    phase: int = NONE
    writes: int = 0

    @property
    def char(self) -> str:
        """Return its character."""
        return chr(BASE + (self.writes << 6 | self.phase << 3 | self.place))

    def put(self, place: int | None = None, phase: int | None = None) -> Host:
        """Return it elsewhere, or with a changed ticket, which no write but a new one fits any more."""
        writes = self.writes if phase is None else self.writes & QUEUE
        return Host(self.place if place is None else place, self.phase if phase is None else phase, writes)

    def sent(self, write: int) -> Host:
        """Return it with a write under way."""
        return Host(self.place, self.phase, self.writes | write)

    def lost(self, write: int) -> Host:
        """Return it without that write."""
        return Host(self.place, self.phase, self.writes & ~write)


@cache
def host_of(char: str) -> Host:
    """Read a host's character."""
    bits = ord(char) - BASE
    return Host(bits & 7, bits >> 3 & 7, bits >> 6)


@dataclass(frozen=True, slots=True)
class Step:
    """What may happen to one host; `needs` names the rule that has to allow it."""

    name: str
    after: Host
    helps: bool = False
    asked: bool = True
    needs: int = 0  # TAKE, COMMIT or nothing


class Tickets:
    """The design of `lockd`."""

    def __init__(self, bounds: Bounds, take: Rule = may_take, go: Rule = may_go_down) -> None:
        self._bounds = bounds
        self._rules = {TAKE: take, COMMIT: go}
        self._verdicts: dict[tuple[int, str], tuple[bool, ...]] = {}
        self._steps: dict[str, tuple[tuple[str, str, bool, bool, int, bool], ...]] = {}
        self._settled: dict[str, str] = {}

    def start(self) -> str:
        """Return a group in which nobody wants anything."""
        return f"{self._bounds.limits[0]}-{BAR}{Host(IDLE).char * self._bounds.hosts}"

    def gone(self, state: str) -> int:
        """Count those that are down or ill, and those who wrote that they go."""
        return sum(map(_is_gone, state[2:]))

    def limit(self, state: str) -> int:
        """Return max."""
        return int(state[0])

    def at_rest(self, state: str) -> bool:
        """Nobody has a ticket, nobody does anything, the group isn't paused."""
        return state[1:3] == f"-{BAR}" and all(host_of(char).place == IDLE for char in state[3:])

    def moves(self, state: str) -> Iterator[Move]:
        """Yield what each host may do, then what an operator may."""
        bar = state.index(BAR)
        queue, loose = state[2:bar], state[bar + 1 :]
        under_way = sum(map(_writes_of, state[2:]))
        for place, char in enumerate(queue):
            yield from self._host_moves(state[:2], (queue[:place], queue[place + 1 :], loose), char, under_way)
        for place, char in enumerate(loose):
            if char != loose[place - 1 : place]:  # of those who are alike, one will do
                rest = loose[:place] + loose[place + 1 :]
                yield from self._host_moves(state[:2], (queue, "", rest), char, under_way)
        yield from self._operator_moves(state)

    def show(self, state: str) -> str:
        """Write max, pause and each host, the queue first."""
        bar = state.index(BAR)
        hosts = [_show(host_of(char)) for char in state[2:bar] + state[bar + 1 :]]
        return f"max {state[0]}{' paused' if state[1] == 'P' else ''}: {'; '.join(hosts)}"

    # ---- hosts

    def _host_moves(self, head: str, around: tuple[str, str, str], char: str, under_way: int) -> Iterator[Move]:
        before, behind, loose = around
        for name, after, helps, asked, needs, sends in self._steps_of(char):
            if sends and under_way >= self._bounds.in_transit:
                continue
            if needs and not self._allowed(needs, head + before + char + behind, len(before)):
                continue
            if name == "pauses the group":
                if head[1] == "-":
                    yield Move(name, self._new_settings(head[0] + "P", before + char + behind, loose), True)
            elif _has_ticket(after):
                place = before + after + behind if _has_ticket(char) else before + behind + after
                yield Move(name, f"{head}{place}{BAR}{loose}", helps, asked)
            else:
                yield Move(name, f"{head}{before}{behind}{BAR}{''.join(sorted(loose + after))}", helps, asked)

    def _steps_of(self, char: str) -> tuple[tuple[str, str, bool, bool, int, bool], ...]:
        found = self._steps.get(char)
        if found is None:
            host = host_of(char)
            steps = [*_arrivals(host), *_own_steps(host), *self._accidents(host)]
            found = self._steps[char] = tuple(
                (step.name, step.after.char, step.helps, step.asked, step.needs, _COUNT[step.after.char] > _COUNT[char])
                for step in steps
            )
        return found

    def _accidents(self, host: Host) -> Iterator[Step]:
        if host.phase == WAITING or (host.phase != NONE and self._bounds.leases_on_holders):
            yield Step("its lease ends", host.put(phase=NONE), helps=True)
        if host.place == WANT and self._bounds.crashes:
            yield Step("crashes", host.put(OFF), asked=False)

    def _allowed(self, rule: int, queue: str, place: int) -> bool:
        key = rule, queue.translate(_ONLY_PHASES)
        verdicts = self._verdicts.get(key)
        if verdicts is None:
            group = _group(key[1])
            verdicts = self._verdicts[key] = tuple(self._rules[rule](group, ticket) for ticket in group.tickets)
        return verdicts[place]

    # ---- operators

    def _operator_moves(self, state: str) -> Iterator[Move]:
        bar = state.index(BAR)
        queue, loose = state[2:bar], state[bar + 1 :]
        if state[1] == "P":
            yield Move("resume", self._new_settings(state[0] + "-", queue, loose), True)
        for limit in self._bounds.limits:
            if limit != int(state[0]):
                yield Move(f"set-max {limit}", self._new_settings(f"{limit}{state[1]}", queue, loose), False, False)

    @staticmethod
    def _new_settings(head: str, queue: str, loose: str) -> str:
        return f"{head}{queue.translate(_WITHOUT_SETTINGS)}{BAR}{loose}"


def search(bounds: Bounds, take: Rule = may_take, go: Rule = may_go_down) -> Found:
    """Visit every state of the design of `lockd`."""
    return Search(Tickets(bounds, take, go)).run()


# ---- what one host may do


def _arrivals(host: Host) -> Iterator[Step]:
    """A write that is under way arrives, or never does; one that queues up may arrive once more later."""
    for bit, name in enumerate(WRITES):
        write = 1 << bit
        if not host.writes & write:
            continue
        if write == QUEUE:
            if host.phase == NONE:
                yield Step("queue arrives", host.lost(QUEUE).put(phase=WAITING))
                yield Step("queue arrives, and will again", host.put(phase=WAITING))
        else:
            yield Step(f"{name} arrives", host.put(phase=BECOMES.get(write, NONE)))
        yield Step(f"{name} vanishes", host.lost(write), helps=True)


def _own_steps(host: Host) -> Iterator[Step]:
    match host.place:
        case 0:  # idle
            yield Step("wants to reboot", host.put(WANT))
        case 1:
            yield from _steps_towards_the_reboot(host)
        case 2:  # off
            yield Step("comes back", host.put(UP), helps=True)
            if host.phase in (HELD, REBOOTING):
                yield Step("comes back ill from a crash", host.put(SICK))
        case 3:  # down
            yield Step("comes back", host.put(UP), helps=True)
            yield Step("comes back ill", host.put(ILL))
        case 4:
            yield from _steps_when_healthy(host)
        case _:
            yield from _steps_when_ill(host)
    if host.phase != NONE and host.place in (IDLE, WANT, UP):
        yield Step("is unlocked by force while it is up", host.put(phase=NONE))


def _steps_towards_the_reboot(host: Host) -> Iterator[Step]:
    if host.phase == NONE:
        yield Step("queues up", host.put(phase=WAITING))
        yield Step("sends queue", host.sent(QUEUE))
        yield Step("wants no more", host.put(IDLE), helps=True)
        return
    if host.phase == WAITING:
        yield Step("takes the slot", host.put(phase=HELD), helps=True, needs=TAKE)
        yield Step("sends take", host.sent(TAKE), needs=TAKE)
    else:
        yield from _steps_down(host)
    if host.phase == REBOOTING:  # the reboot was refused
        yield Step("takes it back", host.put(phase=HELD))
        yield Step("sends undo", host.sent(UNDO))
    yield from _steps_of_release(host)


def _steps_down(host: Host) -> Iterator[Step]:
    yield Step("goes down", host.put(DOWN, REBOOTING), helps=True, needs=COMMIT)
    yield Step("commits, and hears nothing of it", host.put(phase=REBOOTING), needs=COMMIT)
    yield Step("sends commit", host.sent(COMMIT), needs=COMMIT)


def _steps_when_healthy(host: Host) -> Iterator[Step]:
    if host.phase == NONE:
        yield Step("is done", host.put(IDLE), helps=True)
    elif host.phase == WAITING:
        yield Step("wants to reboot", host.put(WANT))
    else:
        yield from _steps_of_release(host)


def _steps_when_ill(host: Host) -> Iterator[Step]:
    yield Step("is repaired, and unlocked by force", host.put(IDLE, NONE), helps=True)
    if host.phase == NONE:
        return
    yield Step("pauses the group", host)
    if host.phase in (HELD, REBOOTING):
        yield Step("says that it rolled back", host.put(phase=ROLLED))
        yield Step("sends mark", host.sent(MARK))
    if host.phase in (REBOOTING, ROLLED):
        yield from _steps_down(host)  # a newer release is there, and nobody paused


def _steps_of_release(host: Host) -> Iterator[Step]:
    yield Step("gives back", host.put(phase=NONE), helps=True)
    yield Step("sends release", host.sent(RELEASE))


# ---- characters


def _every_host() -> Iterator[Host]:
    for place in range(len(PLACES)):
        for phase in range(len(PHASES) + 1):
            for writes in range(1 << len(WRITES)):
                yield Host(place, phase, writes)


_ALL = tuple(_every_host())
_GONE = {host.char for host in _ALL if host.place in (DOWN, ILL) or host.phase == REBOOTING}
_TICKET = {host.char for host in _ALL if host.phase != NONE}
_ONLY_PHASES = {ord(host.char): Host(IDLE, host.phase).char for host in _ALL}
_WITHOUT_SETTINGS = {ord(host.char): Host(host.place, host.phase, host.writes & ~NEED_SETTINGS).char for host in _ALL}
_COUNT = {host.char: host.writes.bit_count() for host in _ALL} | {BAR: 0}

_is_gone = _GONE.__contains__
_has_ticket = _TICKET.__contains__
_writes_of = _COUNT.__getitem__


def _group(state: str) -> Group:
    tickets = [
        Ticket(Claim(f"m{place}", PHASES[host_of(char).phase - 1], f"boot-{place}"), place + 1, place + 1, lease=0)
        for place, char in enumerate(state[2:])
    ]
    pause = Pause("somebody", "why", "then") if state[1] == "P" else None
    return Group(GroupSettings(int(state[0]), pause, 1), tuple(tickets), len(tickets) + 1)


def _show(host: Host) -> str:
    phase = "" if host.phase == NONE else f" {PHASES[host.phase - 1].value}"
    writes = [name for bit, name in enumerate(WRITES) if host.writes >> bit & 1]
    return f"{PLACES[host.place]}{phase}{' sends ' + ', '.join(writes) if writes else ''}"
