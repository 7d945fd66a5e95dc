"""Decides where each part of a new image comes from: all of it from the source, or what the host lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from updated.install.carry import Todo
from updated.install.reuse import Finder, Verdict
from updated.payload.manifest import Manifest, Partition


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in the payload's order; sizes in bytes of the payload."""

    todos: tuple[Todo, ...]
    whole: bool = False  # the payload comes by from its first byte to its last, so that it can be hashed
    settled: int = 0  # operations of the slot's partition, from its first, that are done already
    settled_bytes: int = 0  # the data of everything that need not be done
    finder: Finder | None = None  # knows what chunks can be put together from


def plan_whole(manifest: Manifest) -> Plan:
    """Fetch and carry out everything; the data of partitions that have no place pass by."""
    return Plan(tuple(Todo(op, part.name) for part in manifest.partitions for op in part.operations), whole=True)


def plan_rest(manifest: Manifest, root: Partition, settled: int) -> Plan:
    """Go on behind the operations of the slot's partition that an interrupted install left done."""
    done = root.operations[:settled]
    todos = tuple(Todo(op, root.name) for op in root.operations[settled:])
    return Plan((*todos, *_others(manifest, root)), settled=len(done), settled_bytes=sum(op.data_length for op in done))


def plan_reuse(manifest: Manifest, root: Partition, finder: Finder) -> Plan | None:
    """Put together what was found, fetch the rest; what is in its place already stays. None: nothing was found."""
    todos, in_place, local, chunk = list[Todo](), 0, 0, 0
    for op in root.operations:
        if chunk == len(finder.operations) or op is not finder.operations[chunk]:
            todos.append(Todo(op, root.name))
            continue
        verdict = finder.verdict(chunk)
        if verdict is Verdict.IN_PLACE:
            in_place += op.data_length
        else:
            local += verdict is Verdict.LOCAL
            todos.append(Todo(op, root.name, chunk if verdict is Verdict.LOCAL else None))
        chunk += 1
    if not in_place and not local:
        return None
    return Plan((*todos, *_others(manifest, root)), settled_bytes=in_place, finder=finder)


def _others(manifest: Manifest, root: Partition) -> Iterator[Todo]:
    return (Todo(op, part.name) for part in manifest.partitions if part is not root for op in part.operations)
