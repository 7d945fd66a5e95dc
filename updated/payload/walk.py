"""The one walk over a manifest's operations that checks each of them, and what they are together."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from updated.errors import ErrorCode, RefusedError
from updated.payload.framing import V1
from updated.payload.limits import LIMITS
from updated.payload.manifest import (
    IN_PLACE,
    OF_V1,
    SPARSE_HOLE,
    SUPPORTED,
    ZEROES,
    Extent,
    Image,
    Operation,
    OpType,
    Partition,
)
from updated.payload.operation import Operations, check_operation, parse_operation, read_operation, refused, trim
from updated.payload.outline import MalformedError, Places, take_out

SOURCES, DESTINATIONS = 4, 6  # field numbers of an operation's extents


class Walk:
    """Reads operations, in the payload's order; no object of any is kept."""

    def __init__(self, raw: memoryview, block_size: int, major: int) -> None:
        """Begin.

        Args:
            raw: the manifest.
            block_size: in bytes.
            major: the payload's version.
        """
        self._raw, self._block_size = raw, block_size
        self._foreign = SUPPORTED - OF_V1 if major == V1 else IN_PLACE  # operations of the other version
        self._extents = 0
        self.data_end = 0  # of what was walked, in bytes from the payload's data start

    def pass_by(self, places: Places) -> None:
        """Walk over operations that nothing is done with; they count for the limits.

        Raises:
            RefusedError: MANIFEST_PARSE, LIMIT_EXCEEDED.
        """
        for begin, end in places:
            operation = parse_operation(self._bytes(begin, end))
            self._count(len(operation.src_extents) + len(operation.dst_extents))

    def skip(self, name: str, places: Places) -> Partition:
        """Walk over a partition of which only the data's place counts.

        Raises:
            RefusedError: any that an operation by itself can have, or its data.
        """
        kinds = {op.type for op in self._operations(places)}
        operations = Operations(self._raw, places, self._block_size, None)
        return Partition(name, operations, None, None, is_file=True, skipped=True, kinds=frozenset(kinds))

    def partition(self, name: str, places: Places, old: Image | None, new: Image | None) -> Partition:
        """Walk over a partition.

        Raises:
            RefusedError: any that an operation can have; NEW_PARTITION_INFO, EXTENT_OUT_OF_RANGE, EXTENT_OVERLAP.
        """
        if new is None:
            raise refused(ErrorCode.NEW_PARTITION_INFO, f"the manifest doesn't say what {name} must be in the end")
        block_size, kinds, written = self._block_size, set[OpType](), _Written(name, new.blocks(self._block_size))
        old_end = old.blocks(block_size) if old else LIMITS.image_bytes // block_size
        for op in self._operations(places):
            kinds.add(op.type)
            written.add(trim(op, new.size, block_size))
            if op.src_extents:
                _check_sources(op, name, max(old_end, written.end) if op.type in IN_PLACE else old_end)
        written.check()
        operations = Operations(self._raw, places, block_size, new)
        return Partition(name, operations, old, new, kinds=frozenset(kinds), ascending=written.ascending)

    def _operations(self, places: Places) -> Iterator[Operation]:
        """Yield operations, each read and checked by itself."""
        block_size = self._block_size
        for begin, end in places:
            op = read_operation(self._bytes(begin, end), block_size)
            self._count(len(op.src_extents) + len(op.dst_extents))
            check_operation(op, block_size)
            if op.data_length:  # contiguous in the order of the operations: update_engine's rule
                if op.data_offset != self.data_end:
                    raise _misplaced(op, self.data_end)
                self.data_end += op.data_length
            if op.type in self._foreign:
                raise refused(ErrorCode.OPERATION_UNSUPPORTED, f"{op.type.name} belongs to the other payload version")
            yield op

    def _bytes(self, begin: int, end: int) -> bytes:
        """Return an operation's bytes, once it is sure that they aren't too much to read: an extent takes 2 or more."""
        if end - begin > 2 * LIMITS.extents:
            self._count_ahead(begin, end)
        return self._raw[begin:end].tobytes()

    def _count_ahead(self, begin: int, end: int) -> None:
        try:
            _, lists = take_out(self._raw, (SOURCES, DESTINATIONS), begin, end)
        except MalformedError as error:
            raise refused(ErrorCode.MANIFEST_PARSE, f"an operation can't be read: {error}") from error
        if sum(map(len, lists.values())) > LIMITS.extents:
            raise refused(ErrorCode.LIMIT_EXCEEDED, f"an operation has more than {LIMITS.extents} extents")

    def _count(self, extents: int) -> None:
        self._extents += extents
        if self._extents > LIMITS.extents:
            raise refused(ErrorCode.LIMIT_EXCEEDED, f"there are more than {LIMITS.extents} extents")


class _Written:
    """Which blocks of a partition are written: inside the image, and once; neighbours are joined as they come."""

    def __init__(self, name: str, end: int) -> None:
        self._name, self.end = name, end
        self._begins, self._ends = array("Q", [0]), array("Q", [0])
        self.ascending = True  # all of it, and nothing has no place

    def add(self, op: Operation) -> None:
        for extent in op.dst_extents:
            begin, count = extent
            end = begin + count
            if begin == SPARSE_HOLE and op.type not in ZEROES:  # zeros of nowhere make no sense
                self.ascending = False
            elif end > self.end:
                raise _out_of_range(op, extent, "writes", self._name, self.end)
            elif begin == self._ends[-1]:
                self._ends[-1] = end
            else:
                self.ascending = self.ascending and begin > self._ends[-1]
                self._begins.append(begin)
                self._ends.append(end)

    def check(self) -> None:
        """Without overlaps the runs' sorted begins and ends alternate; with one, some begin comes before an end."""
        if not self.ascending:
            begins, ends = sorted(self._begins)[1:], sorted(self._ends)
            for begin, end in zip(begins, ends, strict=False):
                if begin < end:
                    raise refused(ErrorCode.EXTENT_OVERLAP, f"two operations write block {begin} of {self._name}")


def _check_sources(op: Operation, name: str, end: int) -> None:
    """Every source block lies inside the old image; in place, inside the old or the new one."""
    for extent in op.src_extents:
        if extent.start_block != SPARSE_HOLE and extent.start_block + extent.num_blocks > end:
            raise _out_of_range(op, extent, "reads", name, end)


def _misplaced(op: Operation, expected: int) -> RefusedError:
    return refused(ErrorCode.OPERATION_EXECUTION, f"an operation's data are at {op.data_offset}, not at {expected}")


def _out_of_range(op: Operation, extent: Extent, does: str, name: str, end: int) -> RefusedError:
    return refused(
        ErrorCode.EXTENT_OUT_OF_RANGE,
        f"a {op.type.name} operation {does} blocks {extent.start_block}+{extent.num_blocks} of {name}, which has {end}",
    )
