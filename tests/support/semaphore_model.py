"""Every interleaving of a few hosts on one semaphore, with lost, late and repeated writes; the rules are the product's.

A state is what the store has and what each host does. Hosts look and write in separate moves, a write may stay in
transit and arrive much later, or arrive while its sender thinks that it failed. Revisions are renumbered in order after
each move, since only their order and equality matter: that makes the number of states finite.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lockd.tickets import Claim, Group, GroupSettings, Phase, Ticket, may_go_down, may_take

Rule = Callable[[Group, Ticket], bool]


@dataclass(frozen=True, slots=True)
class Slip:
    """A ticket in the store."""

    host: int
    created: int
    changed: int
    phase: Phase  # waiting, held, rebooting


@dataclass(frozen=True, slots=True)
class Write:
    """A conditional write on its way: what it makes of the ticket, and what it demands of ticket and settings."""

    kind: str  # take, commit (and go down), undo, release
    host: int
    changed: int  # the ticket's mod revision that was seen
    settings: int  # the settings' mod revision that was seen; 0 where it doesn't matter


@dataclass(frozen=True, slots=True)
class World:
    """The store, and where each host is: idle, want, down, up (healthy again), ill (rolled back)."""

    limit: int
    settings: int
    slips: tuple[Slip, ...]
    at: tuple[str, ...]
    transit: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How big a world to search."""

    hosts: int
    limits: tuple[int, ...]  # the first one at the start; set-max moves among them
    in_transit: int = 1
    leases_on_holders: bool = False  # the design of a lock with a lease, to see that the search finds its fault


@dataclass(frozen=True, slots=True)
class Found:
    """What a search saw; a trace leads to a state in which more are down than may be."""

    states: int
    unsafe: tuple[str, ...] | None
    stuck: int


def search(bounds: Bounds, take: Rule = may_take, go: Rule = may_go_down) -> Found:
    """Visit every state; count those from which all hosts can't become idle with an empty queue again."""
    start = World(bounds.limits[0], 1, (), ("idle",) * bounds.hosts, ())
    seen: dict[World, tuple[World, str] | None] = {start: None}
    before: dict[World, list[World]] = {start: []}
    queue = deque([start])
    while queue:
        world = queue.popleft()
        for name, after in _moves(world, bounds, take, go):
            if _too_many_down(world, after):
                return Found(len(seen), (*_trace(seen, world), name), 0)
            if after not in seen:
                seen[after] = (world, name)
                before[after] = []
                queue.append(after)
            before[after].append(world)
    return Found(len(seen), None, len(seen) - _can_rest(before))


def _can_rest(before: dict[World, list[World]]) -> int:
    resting = {world for world in before if not world.slips and set(world.at) == {"idle"}}
    queue = deque(resting)
    while queue:
        for earlier in before[queue.popleft()]:
            if earlier not in resting:
                resting.add(earlier)
                queue.append(earlier)
    return len(resting)


def _trace(seen: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    names: list[str] = []
    while (step := seen[world]) is not None:
        world, name = step
        names.insert(0, name)
    return names


def _too_many_down(world: World, after: World) -> bool:
    """More may be down than are allowed to, and this move made it so (not set-max, which sends nobody home)."""
    return len(_gone(after)) > max(after.limit, len(_gone(world)))


def _gone(world: World) -> set[int]:
    """Return the hosts that are down, or may be at any moment since they wrote that they go."""
    down = {host for host, place in enumerate(world.at) if place in ("down", "ill")}
    return down | {slip.host for slip in world.slips if slip.phase is Phase.REBOOTING}


# ---- the store


def _group(world: World) -> Group:
    tickets = [Ticket(Claim(f"m{slip.host}", slip.phase, ""), slip.created, slip.changed) for slip in world.slips]
    return Group(
        GroupSettings(world.limit, None, world.settings), tuple(sorted(tickets, key=lambda t: t.create_revision))
    )


def _slip(world: World, host: int) -> Slip | None:
    return next((slip for slip in world.slips if slip.host == host), None)


BECOMES = {"take": Phase.HELD, "commit": Phase.REBOOTING, "undo": Phase.HELD}


def _apply(world: World, write: Write) -> World:
    """Let a write arrive: it happens if what it demands still holds."""
    slip = _slip(world, write.host)
    if slip is None or slip.changed != write.changed or write.settings not in (0, world.settings):
        return world
    others = tuple(other for other in world.slips if other is not slip)
    if write.kind == "release":
        return replace(world, slips=others)
    return replace(world, slips=(*others, replace(slip, phase=BECOMES[write.kind], changed=_next(world))))


def _next(world: World) -> int:
    numbers = [world.settings, *(slip.changed for slip in world.slips), *(write.changed for write in world.transit)]
    return max(*numbers, *(write.settings for write in world.transit), 0) + 1


def _renumbered(world: World) -> World:
    numbers = {0, world.settings}
    for slip in world.slips:
        numbers |= {slip.created, slip.changed}
    for write in world.transit:
        numbers |= {write.changed, write.settings}
    new = {number: place for place, number in enumerate(sorted(numbers))}
    slips = [replace(slip, created=new[slip.created], changed=new[slip.changed]) for slip in world.slips]
    transit = [replace(write, changed=new[write.changed], settings=new[write.settings]) for write in world.transit]
    return replace(
        world,
        settings=new[world.settings],
        slips=tuple(sorted(slips, key=lambda slip: slip.host)),
        transit=tuple(sorted(transit, key=lambda write: (write.kind, write.host, write.changed, write.settings))),
    )


# ---- the moves


def _moves(world: World, bounds: Bounds, take: Rule, go: Rule) -> Iterator[tuple[str, World]]:
    moves = [*_transit_moves(world), *_operator_moves(world, bounds)]
    for host in range(bounds.hosts):
        slip = _slip(world, host)
        if world.at[host] == "want":
            moves += _want_moves(world, host, slip, bounds, take, go)
        else:
            moves += _other_moves(world, host, slip, bounds)
        if slip is not None and (slip.phase is Phase.WAITING or bounds.leases_on_holders):
            moves.append((f"lease ends {host}", replace(world, slips=_without(world, slip))))
    for name, after in moves:
        yield name, _renumbered(after)


def _transit_moves(world: World) -> Iterator[tuple[str, World]]:
    for place, write in enumerate(world.transit):
        rest = replace(world, transit=world.transit[:place] + world.transit[place + 1 :])
        yield f"arrives {write.kind} {write.host}", _apply(rest, write)
        yield f"vanishes {write.kind} {write.host}", rest


def _operator_moves(world: World, bounds: Bounds) -> Iterator[tuple[str, World]]:
    for limit in bounds.limits:
        if limit != world.limit:
            yield f"set-max {limit}", replace(world, limit=limit, settings=_next(world))


def _other_moves(world: World, host: int, slip: Slip | None, bounds: Bounds) -> Iterator[tuple[str, World]]:
    place = world.at[host]
    if place == "idle":
        yield f"wants {host}", _move(world, host, "want")
    elif place == "down":
        yield f"comes back {host}", _move(world, host, "up")
        yield f"comes back ill {host}", _move(world, host, "ill")
    elif place == "ill":
        slips = world.slips if slip is None else _without(world, slip)
        yield f"is repaired and unlocked by force {host}", replace(_move(world, host, "idle"), slips=slips)
    elif slip is None:
        yield f"is done {host}", _move(world, host, "idle")
    else:
        yield from _send(world, Write("release", host, slip.changed, 0), bounds)


def _want_moves(
    world: World, host: int, slip: Slip | None, bounds: Bounds, take: Rule, go: Rule
) -> Iterator[tuple[str, World]]:
    if slip is None:
        made = Slip(host, _next(world), _next(world), Phase.WAITING)
        yield f"queues {host}", replace(world, slips=(*world.slips, made))
        return
    group = _group(world)
    ticket = next(found for found in group.tickets if found.create_revision == slip.created)
    if slip.phase is Phase.WAITING:
        if take(group, ticket):
            yield from _send(world, Write("take", host, slip.changed, world.settings), bounds)
        return
    yield from _send(world, Write("release", host, slip.changed, 0), bounds)  # the window closed: it gives up
    if slip.phase is Phase.REBOOTING:
        yield from _send(world, Write("undo", host, slip.changed, 0), bounds)  # the reboot was refused
    if go(group, ticket):
        commit = Write("commit", host, slip.changed, world.settings)
        yield f"goes down {host}", _move(_apply(world, commit), host, "down")
        yield from _send(world, commit, bounds)  # the answer is lost, and so it stays up and looks again


def _send(world: World, write: Write, bounds: Bounds) -> Iterator[tuple[str, World]]:
    """A write arrives at once, or is on its way for any time (its sender may look and write again meanwhile)."""
    yield f"{write.kind} {write.host}", _apply(world, write)
    if len(world.transit) < bounds.in_transit and write not in world.transit:
        yield f"sends {write.kind} {write.host}", replace(world, transit=(*world.transit, write))


def _without(world: World, slip: Slip) -> tuple[Slip, ...]:
    return tuple(other for other in world.slips if other is not slip)


def _move(world: World, host: int, place: str) -> World:
    return replace(world, at=(*world.at[:host], place, *world.at[host + 1 :]))
