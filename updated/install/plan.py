"""Decides where each part of a new image comes from: all of it from the source, or what the host lacks."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import islice

from updated.install.reuse import Finder, Verdict
from updated.install.todo import NO_CHUNK, PartTodos, Todos, all_of
from updated.payload.manifest import Manifest, Partition


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in the payload's order; sizes in bytes of the payload."""

    todos: Todos
    whole: bool = False  # the payload comes by from its first byte to its last, so that it can be hashed
    settled: int = 0  # operations of the slot's partition, from its first, that are done already
    settled_bytes: int = 0  # the data of everything that need not be done
    finder: Finder | None = None  # knows what chunks can be put together from


def plan_whole(manifest: Manifest) -> Plan:
    """Fetch and carry out everything; the data of partitions that have no place pass by."""
    return Plan(Todos(tuple(map(all_of, manifest.partitions))), whole=True)


def plan_rest(manifest: Manifest, root: Partition, settled: int) -> Plan:
    """Go on behind the operations of the slot's partition that an interrupted install left done."""
    settled = min(settled, len(root.operations))
    done_bytes = sum(op.data_length for op in islice(root.operations, settled))
    return Plan(_with_others(manifest, all_of(root, settled)), settled=settled, settled_bytes=done_bytes)


def plan_reuse(manifest: Manifest, root: Partition, finder: Finder) -> Plan | None:
    """Put together what was found, fetch the rest; what is in its place already stays. None: nothing was found."""
    numbers, chunks, in_place, local, chunk = array("I"), array("i"), 0, 0, 0
    chunked = finder.chunks.numbers
    for number in range(len(root.operations)):
        verdict = None
        if chunk < len(chunked) and chunked[chunk] == number:
            verdict, chunk = finder.verdict(chunk), chunk + 1
        if verdict is Verdict.IN_PLACE:
            in_place += root.operations[number].data_length
            continue
        local += verdict is Verdict.LOCAL
        numbers.append(number)
        chunks.append(chunk - 1 if verdict is Verdict.LOCAL else NO_CHUNK)
    if not in_place and not local:
        return None
    return Plan(_with_others(manifest, PartTodos(root, numbers, chunks)), settled_bytes=in_place, finder=finder)


def _with_others(manifest: Manifest, of_slot: PartTodos) -> Todos:
    """Return what is to be done for all partitions, as their data lie in the payload: what is fetched ascends."""
    slot = of_slot.partition
    return Todos(tuple(of_slot if part is slot else all_of(part) for part in manifest.partitions))
