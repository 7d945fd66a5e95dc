"""What a power cut may leave of a folder, from the changes that a seam noted.

What was flushed is there. Of what wasn't, any part may be: a medium's sectors in any order, the one that it was at
torn; a small file's content empty, cut, or zeros; a folder's new names in any combination. A folder's own flush makes
names last, a file's its content.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator

from tests.support.crash_seam import MEDIUM_BYTES, Op, Tree, apply_content, apply_name, play

SECTOR = 512
EXHAUSTIVE = 6  # changes of which every combination is tried
TEARS = 6  # places at which one sector is torn
Image = dict[str, bytes]


class CrashImages:
    """Iterate over it for the images; equal ones come again, see `distinct`."""

    def __init__(self, start: Tree, log: Iterable[Op], seed: str, samples: int) -> None:
        """Take a log, and how many combinations are drawn between two flushes where there are too many for all."""
        self._start, self._log = start, list(log)
        self._chance, self._samples = random.Random(seed), samples
        self._durable = Tree(dict(start.files), dict(start.dirs))
        self._pending: dict[int, list[Op]] = {}

    def __iter__(self) -> Iterator[Image]:
        live = Tree(dict(self._start.files), dict(self._start.dirs))
        for op in self._log:
            if op.kind == "flush":
                yield from self._epoch()
                self._flush(op)
                continue
            play(live, op)
            yield live.render()  # everything arrived in order, up to here
            self._pending.setdefault(op.node, []).append(op)
            if op.kind == "create":
                self._durable.files[op.child] = b""
            if op.kind == "mkdir":
                self._durable.dirs[op.child] = {}
        yield from self._epoch()

    def _flush(self, flush: Op) -> None:
        node = flush.node
        flushed = self._pending.pop(node, [])
        if rest := [op for op in flushed if op.device != flush.device]:
            self._pending[node] = rest
        for op in (op for op in flushed if op.device == flush.device):
            if node in self._durable.files:
                self._durable.files[node] = apply_content(self._durable.files[node], op)
            else:
                self._durable.dirs[node] = apply_name(self._durable.dirs[node], op)

    def _epoch(self) -> Iterator[Image]:
        for node in self._pending:
            others = [other for other in self._pending if other != node]
            for variant in self._variants(node):
                tree = Tree(dict(self._durable.files), dict(self._durable.dirs))
                for other in others:
                    _put(tree, other, self._chance.choice(list(itertools.islice(self._variants(other), self._samples))))
                _put(tree, node, variant)
                yield tree.render()

    def _variants(self, node: int) -> Iterator[bytes | dict[str, int]]:
        ops = self._pending[node]
        if node in self._durable.dirs:
            return _names(self._durable.dirs[node], ops, self._chance, self._samples)
        content = self._durable.files[node]
        if len(content) >= MEDIUM_BYTES:
            return _sectors(content, ops, self._chance, self._samples)
        return _contents(content, ops)


def _put(tree: Tree, node: int, variant: bytes | dict[str, int]) -> None:
    if isinstance(variant, bytes):
        tree.files[node] = variant
    else:
        tree.dirs[node] = variant


def _names(names: dict[str, int], ops: list[Op], chance: random.Random, samples: int) -> Iterator[dict[str, int]]:
    for chosen in _subsets(ops, chance, samples):
        made = names
        for op in chosen:
            made = apply_name(made, op)
        yield made


def _subsets(ops: list[Op], chance: random.Random, samples: int) -> Iterator[list[Op]]:
    if len(ops) <= EXHAUSTIVE:
        for mask in range(1 << len(ops)):
            yield [op for bit, op in enumerate(ops) if mask >> bit & 1]
        return
    yield from (ops[:count] for count in range(len(ops) + 1))
    for _ in range(samples):
        yield [op for op in ops if chance.random() < 0.5]


def _contents(content: bytes, ops: list[Op]) -> Iterator[bytes]:
    """A small file: as far as any write, the last one cut in the middle, or as long as it shall be and all zeros."""
    made = content
    yield made
    for op in ops:
        half = Op(op.kind, op.node, op.offset, op.data[: len(op.data) // 2])
        if op.kind == "write":
            yield apply_content(made, half)
        made = apply_content(made, op)
        yield made
    yield bytes(len(made))


def _sectors(content: bytes, ops: list[Op], chance: random.Random, samples: int) -> Iterator[bytes]:
    """A medium: each sector as it was, or as any of the writes left it, or torn between two of these."""
    versions = _versions(content, ops)
    changed = sorted(versions)
    made = content
    yield made
    for op in ops:
        made = apply_content(made, op)
        yield made
    if len(changed) <= EXHAUSTIVE:
        for picks in itertools.product(*(range(len(versions[at])) for at in changed)):
            yield _with(content, {at: versions[at][pick] for at, pick in zip(changed, picks, strict=True)})
    else:
        yield from _drawn(content, made, versions, chance, samples)
    for at in changed if len(changed) <= EXHAUSTIVE else chance.sample(changed, 3):
        yield from (_with(base, {at: torn}) for base in (content, made) for torn in _torn(versions[at]))


def _drawn(
    before: bytes, after: bytes, versions: dict[int, list[bytes]], chance: random.Random, samples: int
) -> Iterator[bytes]:
    changed = sorted(versions)
    for _ in range(samples):
        share = chance.choice((0.1, 0.5, 0.9))
        yield _with(before, {at: chance.choice(versions[at]) for at in changed if chance.random() < share})
        lost = chance.choice(changed)
        yield _with(after, {lost: versions[lost][0]})
        yield _with(before, {lost: versions[lost][-1]})
        count = chance.randrange(len(changed))
        yield _with(before, {at: versions[at][-1] for at in changed[:count]})


def _versions(content: bytes, ops: list[Op]) -> dict[int, list[bytes]]:
    """Return what each sector that changes was and became, in order."""
    found: dict[int, list[bytes]] = {}
    for op in ops:
        for at in range(op.offset // SECTOR, -(-(op.offset + len(op.data)) // SECTOR)):
            known = found.get(at) or [content[at * SECTOR : (at + 1) * SECTOR]]
            begin, end = max(op.offset, at * SECTOR), min(op.offset + len(op.data), (at + 1) * SECTOR)
            piece = Op("write", op.node, begin - at * SECTOR, op.data[begin - op.offset : end - op.offset])
            found[at] = [*known, apply_content(known[-1], piece)]
    return {at: known for at, known in found.items() if any(each != known[0] for each in known)}


def _torn(known: list[bytes]) -> Iterator[bytes]:
    old, new = known[0], known[-1]
    places = [at for at in range(len(old)) if old[at] != new[at]]
    step = max(1, len(places) // TEARS)
    for at in places[::step]:
        yield new[: at + 1] + old[at + 1 :]
        yield old[: at + 1] + new[at + 1 :]


def _with(content: bytes, sectors: dict[int, bytes]) -> bytes:
    made = bytearray(content)
    for at, sector in sectors.items():
        made[at * SECTOR : (at + 1) * SECTOR] = sector
    return bytes(made)


def distinct(images: Iterable[Image], seen: set[int]) -> Iterator[Image]:
    """Leave out the images that `seen` has, and put the others in."""
    for image in images:
        key = hash(frozenset(image.items()))
        if key not in seen:
            seen.add(key)
            yield image
