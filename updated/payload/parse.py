"""From the manifest's bytes to a checked `Manifest`.

Every rule that can be checked without the data is checked here, before a byte is written: limits, known operations,
extents inside the image and written once, data contiguous, inside the payload and hashed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

from google.protobuf.message import DecodeError

from updated.errors import ErrorCode, RefusedError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import V1, Header
from updated.payload.limits import LIMITS
from updated.payload.manifest import (
    FROM_SOURCE,
    IN_PLACE,
    PATCHES,
    REPLACES,
    SPARSE_HOLE,
    SUPPORTED,
    ZEROES,
    Extent,
    Identity,
    Image,
    Manifest,
    Operation,
    OpType,
    Package,
    Partition,
    blocks,
)

SHA256_BYTES = 32
KERNEL_PROCEDURE, PCR_PROCEDURE = 0, 1
BLOCK_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
# a plain file name, which is also safe in a URL; 200 leaves room for what is put around it while it is written
PACKAGE_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9_+~@=,-][A-Za-z0-9._+~@=,-]{0,199}")
KINDS = {kind.value: kind for kind in OpType}
WITH_DATA, WITH_SOURCE = REPLACES | PATCHES, FROM_SOURCE | IN_PLACE
HINT = "Ask whoever built the payload; `update-payload inspect` shows its parts."


def parse_manifest(raw: bytes, header: Header) -> Manifest:
    """Read and check a manifest.

    Raises:
        RefusedError: MANIFEST_PARSE, LIMIT_EXCEEDED, OPERATION_UNSUPPORTED, EXTENT_*, OPERATION_HASH_MISSING,
            NEW_PARTITION_INFO.
    """
    try:
        message = pb.DeltaArchiveManifest.FromString(raw)
    except DecodeError as error:
        raise _refused(ErrorCode.MANIFEST_PARSE, f"the manifest can't be read: {error}") from error
    block_size = message.block_size or 4096
    if block_size not in BLOCK_SIZES:
        raise _refused(ErrorCode.MANIFEST_PARSE, f"the block size {block_size} is not usual")
    _check_counts(message)
    partitions = _v1_partitions(message, block_size) if header.major == V1 else _v2_partitions(message, block_size)
    manifest = Manifest(
        major=header.major,
        minor=message.minor_version,
        block_size=block_size,
        partitions=partitions,
        identity=_identity(message),
        packages=_packages(message),
        signatures_offset=message.signatures_offset,
        signatures_size=message.signatures_size,
        in_place=any(op.type in IN_PLACE for part in partitions for op in part.operations),
        max_timestamp=message.max_timestamp if message.HasField("max_timestamp") else None,
    )
    _check_layout(manifest)
    return manifest


def _check_counts(message: pb.DeltaArchiveManifest) -> None:
    """Look at the sizes before anything is walked at length."""
    groups = [message.partition_operations, message.noop_operations]
    groups += [procedure.operations for procedure in message.procedures]
    groups += [partition.operations for partition in message.partitions]
    operations = sum(len(group) for group in groups)
    if operations > LIMITS.operations or len(groups) - 2 > LIMITS.partitions:
        raise _refused(
            ErrorCode.LIMIT_EXCEEDED, f"{operations} operations in {len(groups) - 2} partitions are too many"
        )
    extents = sum(len(op.src_extents) + len(op.dst_extents) for group in groups for op in group)
    if extents > LIMITS.extents:
        raise _refused(ErrorCode.LIMIT_EXCEEDED, f"{extents} extents are more than {LIMITS.extents}")
    if message.signatures_size > LIMITS.signature_bytes:
        raise _refused(ErrorCode.LIMIT_EXCEEDED, f"a payload signature of {message.signatures_size} bytes is too large")


def _v1_partitions(message: pb.DeltaArchiveManifest, block_size: int) -> tuple[Partition, ...]:
    if message.partitions:
        raise _refused(ErrorCode.MANIFEST_PARSE, "a version 1 manifest has partitions of version 2")
    operations = _operations(message.partition_operations, block_size)
    old, new = _image(message.old_partition_info), _image(message.new_partition_info)
    found = [_partition(Partition("root", operations, old, new), block_size)]
    for procedure in message.procedures:
        operations = _operations(procedure.operations, block_size)
        if procedure.type == KERNEL_PROCEDURE:
            old, new = _image(procedure.old_info), _image(procedure.new_info)
            found.append(_partition(Partition("kernel", operations, old, new, is_file=True), block_size))
        else:
            name = "pcr-policy" if procedure.type == PCR_PROCEDURE else f"procedure-{procedure.type}"
            found.append(Partition(name, operations, None, None, is_file=True, skipped=True))
    _check_names(found)
    return tuple(found)


def _v2_partitions(message: pb.DeltaArchiveManifest, block_size: int) -> tuple[Partition, ...]:
    if message.partition_operations or message.procedures:
        raise _refused(ErrorCode.MANIFEST_PARSE, "a version 2 manifest has operations of version 1")
    if not message.partitions:
        raise _refused(ErrorCode.MANIFEST_PARSE, "the manifest has no partition")
    found = []
    for update in message.partitions:
        name = _text(update.partition_name, "a partition's name")
        if "/" in name:
            raise _refused(ErrorCode.MANIFEST_PARSE, f"a partition has the name {name!r}")
        operations = _operations(update.operations, block_size)
        if any(op.type in IN_PLACE for op in operations):
            raise _refused(ErrorCode.OPERATION_UNSUPPORTED, "MOVE and BSDIFF belong to version 1 payloads")
        old, new = _image(update.old_partition_info), _image(update.new_partition_info)
        found.append(_partition(Partition(name, operations, old, new, update.run_postinstall), block_size))
    _check_names(found)
    return tuple(found)


def _check_names(partitions: list[Partition]) -> None:
    names = [part.name for part in partitions]
    if len(set(names)) != len(names):
        raise _refused(ErrorCode.MANIFEST_PARSE, f"a partition stands twice in {names}")


def _partition(partition: Partition, block_size: int) -> Partition:
    """Finish a partition whose operations were read: it has an image, and its operations fit in there."""
    if partition.new is None:
        raise _refused(
            ErrorCode.NEW_PARTITION_INFO, f"the manifest doesn't say what {partition.name} must be in the end"
        )
    image = partition.new
    operations = tuple(_trim(op, image, block_size) for op in partition.operations)
    _check_extents(partition.name, operations, image, block_size)
    _check_sources(partition, block_size)
    return replace(partition, operations=operations)


def _operations(raw: Iterable[pb.InstallOperation], block_size: int) -> tuple[Operation, ...]:
    return tuple(_operation(op, block_size) for op in raw)


def _image(info: pb.ImageInfo) -> Image | None:
    if not info.size and not info.hash:
        return None
    if len(info.hash) != SHA256_BYTES:
        raise _refused(ErrorCode.NEW_PARTITION_INFO, f"an image's hash has {len(info.hash)} bytes, not {SHA256_BYTES}")
    if info.size > LIMITS.image_bytes:
        raise _refused(ErrorCode.LIMIT_EXCEEDED, f"an image of {info.size} bytes is over {LIMITS.image_bytes}")
    return Image(info.size, info.hash)


def _operation(raw: pb.InstallOperation, block_size: int) -> Operation:
    src, dst = _extents(raw.src_extents), _extents(raw.dst_extents)
    src_room, dst_room = blocks(src) * block_size, blocks(dst) * block_size
    operation = Operation(
        type=_kind(raw.type),
        data_offset=raw.data_offset,
        data_length=raw.data_length,
        data_sha256=raw.data_sha256_hash,
        src_extents=src,
        src_length=raw.src_length or src_room,
        dst_extents=dst,
        dst_length=raw.dst_length or dst_room,
        src_sha256=raw.src_sha256_hash,
    )
    _check_operation(operation, src_room, dst_room)
    return operation


def _kind(number: int) -> OpType:
    kind = KINDS.get(number)  # a look-up, for an enum's constructor is slow, and there are ten thousands of them
    if kind is None:
        raise _refused(ErrorCode.OPERATION_UNSUPPORTED, f"operation type {number} is not known")
    if kind not in SUPPORTED:
        raise _refused(ErrorCode.OPERATION_UNSUPPORTED, f"the operation {kind.name} is not supported")
    return kind


def _extents(raw: Iterable[pb.Extent]) -> tuple[Extent, ...]:
    return tuple([Extent(extent.start_block, extent.num_blocks) for extent in raw])


def _check_operation(op: Operation, src_room: int, dst_room: int) -> None:
    """Check one operation by itself: sizes (its extents have room for so many bytes), hashes, fields of its type."""
    for extent in op.src_extents + op.dst_extents:
        if extent.num_blocks == 0:
            raise _refused(ErrorCode.EXTENT_EMPTY, f"an extent of a {op.type.name} operation is empty")
    if not op.dst_extents:
        raise _refused(ErrorCode.EXTENT_EMPTY, f"a {op.type.name} operation writes nowhere")
    if op.type not in ZEROES and max(dst_room, op.data_length, src_room) > LIMITS.operation_bytes:
        raise _refused(ErrorCode.LIMIT_EXCEEDED, f"a {op.type.name} operation is over {LIMITS.operation_bytes} bytes")
    if not 0 < op.dst_length <= dst_room or op.src_length > src_room:
        raise _refused(ErrorCode.MANIFEST_PARSE, f"a {op.type.name} operation's lengths don't fit its extents")
    if len(op.data_sha256) not in (0, SHA256_BYTES) or len(op.src_sha256) not in (0, SHA256_BYTES):
        raise _refused(ErrorCode.MANIFEST_PARSE, f"a {op.type.name} operation has a hash that is no SHA-256")
    if op.data_length and not op.data_sha256:
        raise _refused(ErrorCode.OPERATION_HASH_MISSING, f"a {op.type.name} operation has data without a hash")
    _check_shape(op)


def _check_shape(op: Operation) -> None:
    has_data, has_source = bool(op.data_length), bool(op.src_extents)
    if has_data != (op.type in WITH_DATA) or has_source != (op.type in WITH_SOURCE):
        raise _refused(ErrorCode.MANIFEST_PARSE, f"a {op.type.name} operation lacks or has too much data or source")
    if op.type in (OpType.MOVE, OpType.SOURCE_COPY) and blocks(op.src_extents) != blocks(op.dst_extents):
        raise _refused(ErrorCode.MANIFEST_PARSE, f"a {op.type.name} operation copies to another size")


def _trim(op: Operation, image: Image, block_size: int) -> Operation:
    """Cut the last chunk of a full payload to the image.

    update_engine's full generator gives every chunk the same number of blocks, also the last one, whose data are then
    shorter than its extent.
    """
    last = op.dst_extents[-1]
    end = -(-image.size // block_size)
    if (
        op.type not in REPLACES
        or len(op.dst_extents) > 1
        or not last.start_block < end <= last.start_block + last.num_blocks
    ):
        return op
    length = min(op.dst_length, image.size - last.start_block * block_size)
    return replace(op, dst_extents=(Extent(last.start_block, end - last.start_block),), dst_length=length)


def _check_extents(name: str, operations: tuple[Operation, ...], image: Image, block_size: int) -> None:
    """Every destination block lies inside the image and is written once."""
    end = -(-image.size // block_size)
    spans = []
    for op in operations:
        for extent in op.dst_extents:
            if extent.start_block == SPARSE_HOLE and op.type not in ZEROES:  # zeros of nowhere make no sense
                continue
            if extent.start_block >= end or extent.start_block + extent.num_blocks > end:
                raise _refused(
                    ErrorCode.EXTENT_OUT_OF_RANGE,
                    f"a {op.type.name} operation writes blocks {extent.start_block}+{extent.num_blocks}"
                    f" of {name}, which has {end}",
                )
            spans.append((extent.start_block, extent.start_block + extent.num_blocks))
    spans.sort()
    for (_, before), (after, _) in pairwise(spans):
        if after < before:
            raise _refused(ErrorCode.EXTENT_OVERLAP, f"two operations write block {after} of {name}")


def _check_sources(partition: Partition, block_size: int) -> None:
    """Every source block lies inside the old image; in place, inside the old or the new one."""
    old = partition.old.size if partition.old else LIMITS.image_bytes
    new = partition.new.size if partition.new else 0
    for op in partition.operations:
        end = -(-max(old, new if op.type in IN_PLACE else 0) // block_size)
        for extent in op.src_extents:
            if extent.start_block != SPARSE_HOLE and extent.start_block + extent.num_blocks > end:
                raise _refused(
                    ErrorCode.EXTENT_OUT_OF_RANGE,
                    f"a {op.type.name} operation reads blocks {extent.start_block}+{extent.num_blocks}"
                    f" of {partition.name}, which has {end}",
                )


def _check_layout(manifest: Manifest) -> None:
    """Data are contiguous in the order of the operations (update_engine's rule), the signature right behind them."""
    expected = 0
    for part in manifest.partitions:
        for op in part.operations:
            if not op.data_length:
                continue
            if op.data_offset != expected:
                raise _refused(
                    ErrorCode.OPERATION_EXECUTION, f"an operation's data are at {op.data_offset}, not at {expected}"
                )
            expected += op.data_length
    if manifest.signatures_size and manifest.signatures_offset != expected:
        raise _refused(
            ErrorCode.MANIFEST_PARSE,
            f"the signature is at {manifest.signatures_offset}, not after the data at {expected}",
        )


def _identity(message: pb.DeltaArchiveManifest) -> Identity | None:
    if not message.product and not message.version:
        return None
    return Identity(
        product=_text(message.product, "the product"),
        channels=tuple(_text(channel, "a channel") for channel in message.channels),
        version=_text(message.version, "the version"),
        rollback_index=message.rollback_index,
        not_after=message.not_after if message.HasField("not_after") else None,
    )


def _packages(message: pb.DeltaArchiveManifest) -> tuple[Package, ...]:
    if len(message.packages) > LIMITS.packages:
        raise _refused(ErrorCode.LIMIT_EXCEEDED, f"{len(message.packages)} packages are more than {LIMITS.packages}")
    packages = tuple(_package(package) for package in message.packages)
    names = [package.name for package in packages]
    if len(set(names)) != len(names):
        raise _refused(ErrorCode.MANIFEST_PARSE, f"a package stands twice in {names}")
    return packages


def _package(raw: pb.Package) -> Package:
    name = _text(raw.name, "a package's name")
    if not PACKAGE_NAME.fullmatch(name):
        raise _refused(ErrorCode.MANIFEST_PARSE, f"a package has the name {name!r}, which is no plain file name")
    if len(raw.sha256) != SHA256_BYTES or not 0 < raw.size <= LIMITS.image_bytes:
        raise _refused(ErrorCode.MANIFEST_PARSE, f"the package {name} has no size or no SHA-256")
    return Package(name, raw.size, raw.sha256, _text(raw.kind, "a package's kind") if raw.kind else "")


def _text(given: str | bytes, what: str) -> str:
    """Check a text of the manifest; protobuf (upb, proto2) hands out bytes where they aren't UTF-8.

    Raises:
        RefusedError: MANIFEST_PARSE.
    """
    if not isinstance(given, str) or not 0 < len(given) <= LIMITS.text_bytes or not given.isprintable():
        raise _refused(ErrorCode.MANIFEST_PARSE, f"{what} is malformed: {given[: LIMITS.text_bytes]!r}")
    return given


def _refused(code: ErrorCode, message: str) -> RefusedError:
    return RefusedError(code, message, hint=HINT)
