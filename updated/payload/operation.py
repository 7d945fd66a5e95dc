"""Operations: one from its bytes, what is checked of it alone, and a partition's, which stay bytes until looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from google.protobuf.message import DecodeError

from updated.errors import ErrorCode, RefusedError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.limits import LIMITS
from updated.payload.manifest import (
    FROM_SOURCE,
    IN_PLACE,
    PATCHES,
    REPLACES,
    SUPPORTED,
    ZEROES,
    Extent,
    Image,
    Operation,
    OpType,
    blocks,
)
from updated.payload.outline import Places

SHA256_BYTES = 32
HASH_SIZES = (SHA256_BYTES, 0)  # of one that is given, or left out
ROOM = LIMITS.operation_bytes
KINDS = {kind.value: kind for kind in SUPPORTED}  # a look-up, for an enum's constructor is slow
WITH_DATA, WITH_SOURCE = REPLACES | PATCHES, FROM_SOURCE | IN_PLACE
COPIES = frozenset({OpType.MOVE, OpType.SOURCE_COPY})
_new = tuple.__new__  # makes named tuples in half the time that their own constructors take
HINT = "Ask whoever built the payload; `update-payload inspect` shows its parts."


@dataclass(frozen=True, slots=True, eq=False)
class Operations(Sequence[Operation]):
    """A partition's operations, read from the manifest's bytes at each look.

    As objects they would take 900 bytes each; here it is 8 beside the 60 that the manifest has of each, so an image of
    many GiB needs hardly more memory than a small one.
    """

    raw: memoryview  # the manifest
    places: Places
    block_size: int
    image: Image | None  # what they make: the last one is cut to it

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, number: int) -> Operation: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Operation, ...]: ...
    def __getitem__(self, number: int | slice) -> Operation | tuple[Operation, ...]:
        """Read one, or some.

        Raises:
            RefusedError: MANIFEST_PARSE, OPERATION_UNSUPPORTED; not once `parse_manifest` has read them.
        """
        if isinstance(number, slice):
            return tuple(self[each] for each in range(*number.indices(len(self))))
        return self._read(self.places.begins[number], self.places.ends[number])

    def __iter__(self) -> Iterator[Operation]:
        for begin, end in self.places:
            yield self._read(begin, end)

    def _read(self, begin: int, end: int) -> Operation:
        operation = read_operation(self.raw[begin:end].tobytes(), self.block_size)
        return operation if self.image is None else trim(operation, self.image.size, self.block_size)


def parse_operation(part: bytes) -> pb.InstallOperation:
    """Read an operation's message.

    Raises:
        RefusedError: MANIFEST_PARSE.
    """
    try:
        return pb.InstallOperation.FromString(part)
    except DecodeError as error:
        raise refused(ErrorCode.MANIFEST_PARSE, f"an operation can't be read: {error}") from error


def read_operation(part: bytes, block_size: int) -> Operation:
    """Read an operation.

    Raises:
        RefusedError: MANIFEST_PARSE, OPERATION_UNSUPPORTED.
    """
    raw = parse_operation(part)
    kind = KINDS.get(raw.type)
    if kind is None:
        raise _unsupported(raw.type)
    src, dst = _extents(raw.src_extents), _extents(raw.dst_extents)
    fields = (
        kind,
        raw.data_offset,
        raw.data_length,
        raw.data_sha256_hash,
        src,
        raw.src_length or blocks(src) * block_size,
        dst,
        raw.dst_length or blocks(dst) * block_size,
        raw.src_sha256_hash,
    )
    return _new(Operation, fields)


def _extents(raw: Sequence[pb.Extent]) -> tuple[Extent, ...]:
    if not raw:
        return ()
    if len(raw) == 1:  # as nearly always
        only = raw[0]
        return (_new(Extent, (only.start_block, only.num_blocks)),)
    return tuple([Extent(extent.start_block, extent.num_blocks) for extent in raw])


def _unsupported(number: int) -> RefusedError:
    try:
        what = f"the operation {OpType(number).name} is not supported"
    except ValueError:
        what = f"operation type {number} is not known"
    return refused(ErrorCode.OPERATION_UNSUPPORTED, what)


def trim(op: Operation, image_size: int, block_size: int) -> Operation:
    """Cut the last chunk of a full payload to the image.

    update_engine's full generator gives every chunk the same number of blocks, also the last one, whose data are then
    shorter than its extent.
    """
    if len(op.dst_extents) != 1:
        return op
    start, count = op.dst_extents[0]
    if (start + count) * block_size < image_size or op.type not in REPLACES:
        return op
    left = image_size - start * block_size
    if left <= 0:
        return op
    return op._replace(dst_extents=(Extent(start, -(-left // block_size)),), dst_length=min(op.dst_length, left))


def check_operation(op: Operation, block_size: int) -> None:
    """Check one operation by itself, as it stands: sizes, extents that have room for them, hashes, its type's fields.

    Raises:
        RefusedError: EXTENT_EMPTY, LIMIT_EXCEEDED, MANIFEST_PARSE, OPERATION_HASH_MISSING.
    """
    kind, _, data_length, data_sha256, src, src_length, dst, dst_length, src_sha256 = op
    src_room, dst_room = blocks(src) * block_size, blocks(dst) * block_size
    if not dst_room or ((src or len(dst) > 1) and not all(count for _, count in src + dst)):
        raise refused(ErrorCode.EXTENT_EMPTY, f"a {kind.name} operation writes nowhere, or has an extent of no blocks")
    if (dst_room > ROOM or data_length > ROOM or src_room > ROOM) and kind not in ZEROES:
        raise refused(ErrorCode.LIMIT_EXCEEDED, f"a {kind.name} operation is over {ROOM} bytes")
    if not 0 < dst_length <= dst_room or src_length > src_room:
        raise refused(ErrorCode.MANIFEST_PARSE, f"a {kind.name} operation's lengths don't fit its extents")
    if len(data_sha256) not in HASH_SIZES or len(src_sha256) not in HASH_SIZES:
        raise refused(ErrorCode.MANIFEST_PARSE, f"a {kind.name} operation has a hash that is no SHA-256")
    if data_length and not data_sha256:
        raise refused(ErrorCode.OPERATION_HASH_MISSING, f"a {kind.name} operation has data without a hash")
    _check_shape(op, src_room, dst_room)


def _check_shape(op: Operation, src_room: int, dst_room: int) -> None:
    kind = op.type
    if (op.data_length > 0) is not (kind in WITH_DATA) or (src_room > 0) is not (kind in WITH_SOURCE):
        raise refused(ErrorCode.MANIFEST_PARSE, f"a {kind.name} operation lacks or has too much data or source")
    if kind in COPIES and src_room != dst_room:
        raise refused(ErrorCode.MANIFEST_PARSE, f"a {kind.name} operation copies to another size")


def refused(code: ErrorCode, message: str) -> RefusedError:
    """Return the error of a payload that is built wrongly."""
    return RefusedError(code, message, hint=HINT)
