"""From the manifest's bytes to a checked `Manifest`.

Every rule that can be checked without the data is checked here, before a byte is written: limits, known operations,
extents inside the image and written once, data contiguous, inside the payload and hashed.

Operations never stand in memory as objects, all at once: protobuf reads the manifest without them, and they are read
one at a time, for the checks (walk.py) and at each later look (operation.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from updated.errors import ErrorCode
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import V1, Header
from updated.payload.limits import LIMITS
from updated.payload.manifest import Identity, Image, Manifest, Package, Partition
from updated.payload.operation import SHA256_BYTES, refused
from updated.payload.outline import MalformedError, Places, take_out
from updated.payload.walk import Walk

KERNEL = "kernel"
PROCEDURES_BY_TYPE = {0: KERNEL, 1: "pcr-policy"}
BLOCK_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
BESIDE = ".updated-new"  # behind the name of a file that isn't in place yet
# a plain file name, which is also safe in a URL; 200 leaves room for what is put behind it while it is written, and
# what is put there is no package's own ending: two files would be written into one
PACKAGE_NAME = re.compile(rf"(?!.*\.\.)[A-Za-z0-9_+~@=,-][A-Za-z0-9._+~@=,-]{{0,199}}(?<!{re.escape(BESIDE)})")
ROOT_HASH = re.compile(r"[0-9a-f]{64}")  # SHA-256
# field numbers of what is taken out: of the manifest, of a procedure, of a partition
V1_OPERATIONS, NOOPS, PROCEDURES, PARTITIONS, PACKAGES = 1, 2, 10, 13, 1005
OF_PROCEDURE, OF_PARTITION = 2, 8

M = TypeVar("M", bound=Message)


def parse_manifest(raw: bytes | memoryview, header: Header) -> Manifest:
    """Read and check a manifest; its operations are read again from these bytes whenever they are looked at.

    Raises:
        RefusedError: MANIFEST_PARSE, LIMIT_EXCEEDED, OPERATION_UNSUPPORTED, EXTENT_*, OPERATION_HASH_MISSING,
            OPERATION_EXECUTION (data that aren't contiguous), NEW_PARTITION_INFO.
    """
    outline = read_outline(memoryview(raw))
    message = outline.message
    block_size = message.block_size or 4096
    if block_size not in BLOCK_SIZES:
        raise refused(ErrorCode.MANIFEST_PARSE, f"the block size {block_size} is not usual")
    _check_counts(outline)
    walk = Walk(memoryview(raw), block_size, header.major)
    partitions = _v1_partitions(outline, walk) if header.major == V1 else _v2_partitions(outline, walk)
    walk.pass_by(outline.noops)
    _check_signature(message, walk.data_end)
    return Manifest(
        major=header.major,
        minor=message.minor_version,
        block_size=block_size,
        partitions=tuple(partitions),
        identity=_identity(message),
        packages=_packages(outline.packages),
        data_length=walk.data_end,
        signatures_offset=message.signatures_offset,
        signatures_size=message.signatures_size,
        max_timestamp=message.max_timestamp if message.HasField("max_timestamp") else None,
        root_hash=_root_hash(message),
    )


@dataclass(frozen=True, slots=True)
class Outline:
    """A manifest whose lists are places in its bytes, or messages of their own; those they stood in lack them."""

    message: pb.DeltaArchiveManifest
    v1_operations: Places
    noops: Places
    procedures: Sequence[tuple[pb.InstallProcedure, Places]]
    partitions: Sequence[tuple[pb.PartitionUpdate, Places]]
    packages: Sequence[pb.Package]


def read_outline(raw: memoryview) -> Outline:
    """Read everything of a manifest but its operations; lists are counted before protobuf makes objects of them.

    Raises:
        RefusedError: MANIFEST_PARSE, LIMIT_EXCEEDED (partitions, packages).
    """
    try:
        rest, lists = take_out(raw, (V1_OPERATIONS, NOOPS, PROCEDURES, PARTITIONS, PACKAGES))
        _check_count("partitions", len(lists[PROCEDURES]) + len(lists[PARTITIONS]), LIMITS.partitions)
        _check_count("packages", len(lists[PACKAGES]), LIMITS.packages)
        return Outline(
            pb.DeltaArchiveManifest.FromString(rest),
            lists[V1_OPERATIONS],
            lists[NOOPS],
            [_read_part(pb.InstallProcedure, OF_PROCEDURE, raw, *place) for place in lists[PROCEDURES]],
            [_read_part(pb.PartitionUpdate, OF_PARTITION, raw, *place) for place in lists[PARTITIONS]],
            [pb.Package.FromString(raw[begin:end].tobytes()) for begin, end in lists[PACKAGES]],
        )
    except (MalformedError, DecodeError) as error:
        raise refused(ErrorCode.MANIFEST_PARSE, f"the manifest can't be read: {error}") from error


def _read_part(kind: type[M], operations: int, raw: memoryview, begin: int, end: int) -> tuple[M, Places]:
    rest, lists = take_out(raw, (operations,), begin, end)
    return kind.FromString(rest), lists[operations]


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise refused(ErrorCode.LIMIT_EXCEEDED, f"{count} {what} are more than {most}")


def _check_counts(outline: Outline) -> None:
    """Look at the sizes before anything is walked at length."""
    parts = [places for _, places in (*outline.procedures, *outline.partitions)]
    _check_count("operations", sum(map(len, (outline.v1_operations, outline.noops, *parts))), LIMITS.operations)
    signature = outline.message.signatures_size
    if signature > LIMITS.signature_bytes:
        raise refused(ErrorCode.LIMIT_EXCEEDED, f"a payload signature of {signature} bytes is too large")


def _v1_partitions(outline: Outline, walk: Walk) -> list[Partition]:
    if outline.partitions:
        raise refused(ErrorCode.MANIFEST_PARSE, "a version 1 manifest has partitions of version 2")
    names = ["root", *(PROCEDURES_BY_TYPE.get(each.type, f"procedure-{each.type}") for each, _ in outline.procedures)]
    _check_names(names)
    message = outline.message
    old, new = _image(message.old_partition_info), _image(message.new_partition_info)
    found = [walk.partition("root", outline.v1_operations, old, new)]
    for name, (procedure, places) in zip(names[1:], outline.procedures, strict=True):
        if name == KERNEL:
            old, new = _image(procedure.old_info), _image(procedure.new_info)
            found.append(replace(walk.partition(name, places, old, new), is_file=True))
        else:
            found.append(walk.skip(name, places))
    return found


def _v2_partitions(outline: Outline, walk: Walk) -> list[Partition]:
    if outline.v1_operations or outline.procedures:
        raise refused(ErrorCode.MANIFEST_PARSE, "a version 2 manifest has operations of version 1")
    if not outline.partitions:
        raise refused(ErrorCode.MANIFEST_PARSE, "the manifest has no partition")
    names = [_text(update.partition_name, "a partition's name") for update, _ in outline.partitions]
    _check_names(names)
    found = []
    for name, (update, places) in zip(names, outline.partitions, strict=True):
        old, new = _image(update.old_partition_info), _image(update.new_partition_info)
        found.append(replace(walk.partition(name, places, old, new), run_postinstall=update.run_postinstall))
    return found


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise refused(ErrorCode.MANIFEST_PARSE, f"a partition stands twice in {names}")
    for name in names:
        if "/" in name:
            raise refused(ErrorCode.MANIFEST_PARSE, f"a partition has the name {name!r}")


def _check_signature(message: pb.DeltaArchiveManifest, data_end: int) -> None:
    """The signature is right behind the data."""
    if message.signatures_size and message.signatures_offset != data_end:
        raise refused(
            ErrorCode.MANIFEST_PARSE,
            f"the signature is at {message.signatures_offset}, not after the data at {data_end}",
        )


def _image(info: pb.ImageInfo) -> Image | None:
    if not info.size and not info.hash:
        return None
    if len(info.hash) != SHA256_BYTES:
        raise refused(ErrorCode.NEW_PARTITION_INFO, f"an image's hash has {len(info.hash)} bytes, not {SHA256_BYTES}")
    if info.size > LIMITS.image_bytes:
        raise refused(ErrorCode.LIMIT_EXCEEDED, f"an image of {info.size} bytes is over {LIMITS.image_bytes}")
    return Image(info.size, info.hash)


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


def _root_hash(message: pb.DeltaArchiveManifest) -> str | None:
    if not message.HasField("root_hash"):
        return None
    text = _text(message.root_hash, "the root hash")
    if not ROOT_HASH.fullmatch(text):
        raise refused(ErrorCode.MANIFEST_PARSE, f"the root hash {text!r} isn't 64 digits of lower-case hex")
    return text


def _packages(given: Sequence[pb.Package]) -> tuple[Package, ...]:
    packages = tuple(_package(package) for package in given)
    names = [package.name for package in packages]
    if len(set(names)) != len(names):
        raise refused(ErrorCode.MANIFEST_PARSE, f"a package stands twice in {names}")
    return packages


def _package(raw: pb.Package) -> Package:
    name = _text(raw.name, "a package's name")
    if not PACKAGE_NAME.fullmatch(name):
        raise refused(ErrorCode.MANIFEST_PARSE, f"a package has the name {name!r}, which is no plain file name")
    if len(raw.sha256) != SHA256_BYTES or not 0 < raw.size <= LIMITS.image_bytes:
        raise refused(ErrorCode.MANIFEST_PARSE, f"the package {name} has no size or no SHA-256")
    return Package(name, raw.size, raw.sha256, _text(raw.kind, "a package's kind") if raw.kind else "")


def _text(given: str | bytes, what: str) -> str:
    """Check a text of the manifest; protobuf (upb, proto2) hands out bytes where they aren't UTF-8.

    Raises:
        RefusedError: MANIFEST_PARSE.
    """
    if not isinstance(given, str) or not 0 < len(given) <= LIMITS.text_bytes or not given.isprintable():
        raise refused(ErrorCode.MANIFEST_PARSE, f"{what} is malformed: {given[: LIMITS.text_bytes]!r}")
    return given
