"""Manifests, operations, patches and keys that nobody honest made: each has its pinned error."""

from __future__ import annotations

import bz2
import lzma
import struct
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from updated.errors import ErrorCode, RefusedError, UpdateError
from updated.payload import bsdiff
from updated.payload import update_metadata_pb2 as pb
from updated.payload.decode import check_data, decode
from updated.payload.framing import Header, encode_header, parse_header
from updated.payload.limits import LIMITS
from updated.payload.manifest import SPARSE_HOLE, Extent, Identity, Operation, OpType
from updated.payload.parse import parse_manifest
from updated.payload.trust import TrustPolicy, check_identity, load_keyring

HASH = b"h" * 32
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def manifest(change: Callable[[pb.DeltaArchiveManifest], object] = lambda _m: None) -> pb.DeltaArchiveManifest:
    """Return a good version 2 manifest: four blocks in two operations; `change` spoils it."""
    made = pb.DeltaArchiveManifest(block_size=4096, product="p", channels=["stable"], version="1", rollback_index=1)
    part = made.partitions.add(partition_name="root")
    part.new_partition_info.size, part.new_partition_info.hash = 4 * 4096, HASH
    for start in (0, 2):
        op = part.operations.add(type=OpType.REPLACE_ZSTD, data_offset=start * 5, data_length=10, data_sha256_hash=HASH)
        op.dst_extents.add(start_block=start, num_blocks=2)
    made.signatures_offset, made.signatures_size = 20, 264
    change(made)
    return made


def parse(made: pb.DeltaArchiveManifest, major: int = 2) -> object:
    raw = made.SerializeToString()
    return parse_manifest(raw, Header(major, len(raw)))


def op(made: pb.DeltaArchiveManifest, index: int = 0) -> pb.InstallOperation:
    return made.partitions[0].operations[index]


def extent(made: pb.DeltaArchiveManifest, index: int = 0) -> pb.Extent:
    return op(made, index).dst_extents[0]


def copy_from(made: pb.DeltaArchiveManifest, *, start_block: int, num_blocks: int, old_size: int) -> None:
    """Make the last operation one that copies from the old image."""
    copying = op(made, 1)
    copying.type = OpType.SOURCE_COPY
    copying.ClearField("data_length")
    copying.src_extents.add(start_block=start_block, num_blocks=num_blocks)
    if old_size:
        old = made.partitions[0].old_partition_info
        old.size, old.hash = old_size, HASH
    made.signatures_offset = 10


def test_good_manifest_is_taken() -> None:
    """The manifests that the cases below spoil are themselves good."""
    parse(manifest())
    parse(manifest(lambda m: copy_from(m, start_block=1, num_blocks=2, old_size=3 * 4096)))


SPOILED: dict[str, tuple[Callable[[pb.DeltaArchiveManifest], object], ErrorCode]] = {
    "extent beyond the partition": (lambda m: setattr(extent(m, 1), "start_block", 4), ErrorCode.EXTENT_OUT_OF_RANGE),
    "extent at the end of the world": (
        lambda m: setattr(extent(m), "start_block", 2**64 - 2),
        ErrorCode.EXTENT_OUT_OF_RANGE,
    ),
    "zero operation beyond the partition": (
        lambda m: m.partitions[0].operations.add(type=OpType.ZERO).dst_extents.add(start_block=3, num_blocks=9),
        ErrorCode.EXTENT_OUT_OF_RANGE,
    ),
    "zeros in a sparse hole": (
        lambda m: (
            m.partitions[0].operations.add(type=OpType.ZERO).dst_extents.add(start_block=SPARSE_HOLE, num_blocks=1)
        ),
        ErrorCode.EXTENT_OUT_OF_RANGE,
    ),
    "source beyond the old image": (
        lambda m: copy_from(m, start_block=2, num_blocks=2, old_size=3 * 4096),
        ErrorCode.EXTENT_OUT_OF_RANGE,
    ),
    "source at the end of the world": (
        lambda m: copy_from(m, start_block=2**52, num_blocks=2, old_size=0),
        ErrorCode.EXTENT_OUT_OF_RANGE,
    ),
    "an image of 8 EiB": (
        lambda m: setattr(m.partitions[0].new_partition_info, "size", 2**63),
        ErrorCode.LIMIT_EXCEEDED,
    ),
    "extent of no blocks": (lambda m: setattr(extent(m), "num_blocks", 0), ErrorCode.EXTENT_EMPTY),
    "no extent": (lambda m: op(m).ClearField("dst_extents"), ErrorCode.EXTENT_EMPTY),
    "overlapping operations": (lambda m: setattr(extent(m, 1), "start_block", 1), ErrorCode.EXTENT_OVERLAP),
    "overlapping extents of one operation": (
        lambda m: op(m).dst_extents.add(start_block=1, num_blocks=1),
        ErrorCode.EXTENT_OVERLAP,
    ),
    "unknown operation": (lambda m: setattr(op(m), "type", 99), ErrorCode.OPERATION_UNSUPPORTED),
    "puffdiff": (lambda m: setattr(op(m), "type", OpType.PUFFDIFF), ErrorCode.OPERATION_UNSUPPORTED),
    "move in version 2": (
        lambda m: (setattr(op(m), "type", OpType.BSDIFF), op(m).src_extents.add(start_block=0, num_blocks=2)),
        ErrorCode.OPERATION_UNSUPPORTED,
    ),
    "data without a hash": (lambda m: op(m).ClearField("data_sha256_hash"), ErrorCode.OPERATION_HASH_MISSING),
    "half a hash": (lambda m: setattr(op(m), "data_sha256_hash", b"x"), ErrorCode.MANIFEST_PARSE),
    "a gap in the data": (lambda m: setattr(op(m, 1), "data_offset", 11), ErrorCode.OPERATION_EXECUTION),
    "data twice": (lambda m: setattr(op(m, 1), "data_offset", 0), ErrorCode.OPERATION_EXECUTION),
    "replace without data": (lambda m: op(m).ClearField("data_length"), ErrorCode.MANIFEST_PARSE),
    "zero with data": (lambda m: setattr(op(m), "type", OpType.ZERO), ErrorCode.MANIFEST_PARSE),
    "copy without source": (lambda m: setattr(op(m), "type", OpType.SOURCE_COPY), ErrorCode.MANIFEST_PARSE),
    "an operation of 1 TiB": (
        lambda m: (
            setattr(m.partitions[0].new_partition_info, "size", 2**41),
            setattr(extent(m, 1), "num_blocks", 2**28),
        ),
        ErrorCode.LIMIT_EXCEEDED,
    ),
    "more made than there is room for": (lambda m: setattr(op(m), "dst_length", 8193), ErrorCode.MANIFEST_PARSE),
    "no image": (lambda m: m.partitions[0].ClearField("new_partition_info"), ErrorCode.NEW_PARTITION_INFO),
    "image without a hash": (
        lambda m: m.partitions[0].new_partition_info.ClearField("hash"),
        ErrorCode.NEW_PARTITION_INFO,
    ),
    "no partition": (lambda m: m.ClearField("partitions"), ErrorCode.MANIFEST_PARSE),
    "a partition twice": (lambda m: m.partitions.append(m.partitions[0]), ErrorCode.MANIFEST_PARSE),
    "a path as partition": (lambda m: setattr(m.partitions[0], "partition_name", "a/b"), ErrorCode.MANIFEST_PARSE),
    "odd block size": (lambda m: setattr(m, "block_size", 4095), ErrorCode.MANIFEST_PARSE),
    "signature in the data": (lambda m: setattr(m, "signatures_offset", 5), ErrorCode.MANIFEST_PARSE),
    "a huge signature": (lambda m: setattr(m, "signatures_size", 2**40), ErrorCode.LIMIT_EXCEEDED),
    "version 1 operations in version 2": (lambda m: m.partition_operations.add(), ErrorCode.MANIFEST_PARSE),
    "identity without a version": (lambda m: m.ClearField("version"), ErrorCode.MANIFEST_PARSE),
    "a version that breaks lines": (lambda m: setattr(m, "version", "1\n2"), ErrorCode.MANIFEST_PARSE),
    "a package with a path": (
        lambda m: m.packages.add(name="../x", size=1, sha256=HASH),
        ErrorCode.MANIFEST_PARSE,
    ),
    "too many packages": (
        lambda m: [m.packages.add() for _ in range(LIMITS.packages + 1)],
        ErrorCode.LIMIT_EXCEEDED,
    ),
    "too many operations": (
        lambda m: [m.noop_operations.add() for _ in range(LIMITS.operations + 1)],
        ErrorCode.LIMIT_EXCEEDED,
    ),
    "too many extents": (
        lambda m: [op(m).src_extents.add() for _ in range(LIMITS.extents + 1)],
        ErrorCode.LIMIT_EXCEEDED,
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_manifest_has_its_error(case: str) -> None:
    """Every rule of a manifest is checked before a byte is written, and has a pinned code."""
    change, code = SPOILED[case]
    with pytest.raises(RefusedError) as caught:
        parse(manifest(change))
    assert caught.value.code is code


@given(st.binary(max_size=200))
def test_any_bytes_as_manifest_are_refused_or_read(raw: bytes) -> None:
    """No manifest, however mad, raises anything but our own errors."""
    for major in (1, 2):
        try:
            parse_manifest(raw, Header(major, len(raw)))
        except UpdateError as error:
            assert error.code in ErrorCode  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"", ErrorCode.METADATA_MAGIC),
        (b"CrAU", ErrorCode.METADATA_MAGIC),
        (b"ZrAU" + bytes(20), ErrorCode.METADATA_MAGIC),
        (b"CrAU" + struct.pack(">QQI", 3, 10, 0), ErrorCode.PAYLOAD_VERSION_UNKNOWN),
        (b"CrAU" + struct.pack(">QQI", 0, 10, 0), ErrorCode.PAYLOAD_VERSION_UNKNOWN),
        (b"CrAU" + struct.pack(">QQI", 2, 0, 0), ErrorCode.METADATA_SIZE),
        (b"CrAU" + struct.pack(">QQI", 1, 2**64 - 20, 0), ErrorCode.METADATA_SIZE),
        (b"CrAU" + struct.pack(">QQI", 2, 10, 2**32 - 1), ErrorCode.METADATA_SIZE),
    ],
)
def test_header_that_lies_is_refused(first: bytes, code: ErrorCode) -> None:
    """Magic, version and sizes are checked (update_engine checks no version and no size)."""
    with pytest.raises(RefusedError) as caught:
        parse_header(first)
    assert caught.value.code is code


@given(st.sampled_from([1, 2]), st.integers(1, LIMITS.manifest_bytes), st.integers(0, LIMITS.signature_bytes))
def test_header_round_trip(major: int, size: int, signature: int) -> None:
    """A header that is written is read as it was."""
    header = Header(major, size, signature if major == 2 else 0)
    assert parse_header(encode_header(header).ljust(24, b"\0")) == header


def operation(kind: OpType, length: int, data: bytes = b"") -> Operation:
    return Operation(kind, 0, len(data), HASH, (), 0, (Extent(0, 1),), length)


ZEROS = bytes(64 * 1024 * 1024)
BOMBS = {
    OpType.REPLACE_BZ: bz2.compress(ZEROS),
    OpType.REPLACE_XZ: lzma.compress(ZEROS),
    OpType.REPLACE_ZSTD: zstandard.ZstdCompressor().compress(ZEROS),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bomb_is_cut_off(kind: OpType) -> None:
    """64 MiB in a few bytes are refused when the operation makes 4 KiB."""
    with pytest.raises(RefusedError) as caught:
        decode(operation(kind, 4096), BOMBS[kind])
    assert caught.value.code is ErrorCode.OPERATION_EXECUTION


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[:-1],
    "followed by something": lambda data: data + b"x",
    "another magic": lambda data: b"\0" + data[1:],
    "nothing": lambda _data: b"",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("how", SPOILS)
def test_spoiled_stream_is_refused(kind: OpType, how: str) -> None:
    """A stream that is cut off, followed by something, or no stream is refused (update_engine aborts on a tail)."""
    compress = {
        OpType.REPLACE_BZ: bz2.compress,
        OpType.REPLACE_XZ: lzma.compress,
        OpType.REPLACE_ZSTD: zstandard.ZstdCompressor(write_checksum=True).compress,
    }[kind]
    good = compress(b"a" * 4096)
    assert bytes(decode(operation(kind, 4096), good)) == b"a" * 4096
    with pytest.raises(RefusedError) as caught:
        decode(operation(kind, 4096), SPOILS[how](good))
    assert caught.value.code is ErrorCode.OPERATION_EXECUTION


def test_data_that_are_not_what_was_signed() -> None:
    """Data with another hash are refused before they are decoded."""
    with pytest.raises(RefusedError) as caught:
        check_data(operation(OpType.REPLACE, 1, b"x"), b"x")
    assert caught.value.code is ErrorCode.OPERATION_HASH_MISMATCH


def patch(control: list[tuple[int, int, int]], diff: bytes, extra: bytes, size: int) -> bytes:
    """Write a BSDIFF40 patch by hand."""

    def number(value: int) -> bytes:
        return struct.pack("<Q", abs(value) | (1 << 63 if value < 0 else 0))

    parts = [
        bz2.compress(b"".join(number(n) for entry in control for n in entry)),
        bz2.compress(diff),
        bz2.compress(extra),
    ]
    return b"BSDIFF40" + number(len(parts[0])) + number(len(parts[1])) + number(size) + b"".join(parts)


def test_patch_adds_copies_and_seeks() -> None:
    """The three parts of a control entry do what the format says, backwards too."""
    made = patch([(2, 1, -1), (2, 0, 0)], b"\1\1\0\xff", b"!", 5)
    assert bsdiff.apply_patch(b"abc", made, 5) == b"bc!bb"


@pytest.mark.parametrize(
    "made",
    [
        b"", b"BSDIFF40", b"BSDIFF41" + bytes(24), patch([(5, 0, 0)], b"12345", b"", 5),
        patch([(-1, 0, 0)], b"", b"", 1),
        patch([(0, -1, 0)], b"", b"", 1), patch([(2, 0, 0)], b"1", b"", 2), patch([(0, 2, 0)], b"", b"1", 2),
        patch([(0, 1, 0)], b"", b"1", 2), patch([(0, 0, -9), (1, 0, 0)], b"1", b"", 1),
        patch([(0, 1, 0)], b"", b"1", 1)[:8] + struct.pack("<Q", 5) + patch([(0, 1, 0)], b"", b"1", 1)[16:],
        patch([(2**62, 0, 0)], b"1", b"", 1), patch([(0, 1, 0)], b"", b"1", 1)[:-3],
        b"BSDIFF40" + struct.pack("<QQQ", 1 << 63 | 5, 0, 1) + bytes(20),
        b"BSDIFF40" + struct.pack("<QQQ", 2**40, 2**40, 1) + bytes(20),
    ],
)  # fmt: skip
def test_malformed_patch_is_refused(made: bytes) -> None:
    """Negative lengths, sums that don't fit, positions outside of old: all refused (CVE-2014-9862)."""
    size = struct.unpack("<Q", made[24:32])[0] if len(made) >= 32 else 1
    with pytest.raises(RefusedError) as caught:
        bsdiff.apply_patch(b"abc", made, size)
    assert caught.value.code is ErrorCode.OPERATION_EXECUTION


def test_patch_that_only_seeks_is_stopped_early() -> None:
    """A hundred megabytes of steps that make nothing, in 200 bytes of patch, cost a thousand steps and no memory."""
    steps = bz2.compress(bytes(24 * 4 * 1024 * 1024))
    made = b"BSDIFF40" + struct.pack("<QQQ", len(steps), 14, 1) + steps + bz2.compress(b"") + bz2.compress(b"x")
    tracemalloc.start()
    with pytest.raises(RefusedError, match="make nothing"):
        bsdiff.apply_patch(b"abc", made, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


@given(st.integers(0, 3), st.binary(min_size=1, max_size=8))
def test_adding_across_pieces(pieces: int, tail: bytes) -> None:
    """A run longer than what is added at a time is added whole."""
    size = pieces * bsdiff.ADD_PIECE + len(tail)
    left, right = bytes([200]) * size, bytes(size - len(tail)) + tail
    expected = left[: size - len(tail)] + bytes((200 + byte) % 256 for byte in tail)
    assert bytes(bsdiff.add_bytes(left, right)) == expected


@given(st.binary(max_size=300), st.data())
def test_adding_bytes_is_modulo_256(left: bytes, data: st.DataObject) -> None:
    """The fast addition is the plain one."""
    right = data.draw(st.binary(min_size=len(left), max_size=len(left)))
    assert bytes(bsdiff.add_bytes(left, right)) == bytes((a + b) % 256 for a, b in zip(left, right, strict=True))


def policy(**changes: object) -> TrustPolicy:
    values: dict[str, object] = {"product": "p", "channels": ("stable",), "rollback_floor": 5}
    return TrustPolicy(**{**values, **changes})  # type: ignore[arg-type]


IDENTITY = Identity("p", ("stable", "beta"), "1.1", 5, None)


def test_identity_at_the_floor_is_taken() -> None:
    """The same index as the highest that booted well may be installed again."""
    check_identity(IDENTITY, policy(), NOW)


@pytest.mark.parametrize(
    ("identity", "given_policy", "code"),
    [
        (None, policy(), ErrorCode.IDENTITY_MISSING),
        (Identity("q", ("stable",), "1.1", 5), policy(), ErrorCode.PRODUCT_MISMATCH),
        (Identity("p", ("beta",), "1.1", 5), policy(), ErrorCode.CHANNEL_MISMATCH),
        (Identity("p", ("stable",), "1.1", 4), policy(), ErrorCode.ROLLBACK_INDEX_TOO_LOW),
        (Identity("p", ("stable",), "1.1", 5, 1), policy(), ErrorCode.RELEASE_EXPIRED),
        (IDENTITY, policy(failed_versions=frozenset({"1.1"})), ErrorCode.VERSION_FAILED_BEFORE),
    ],
)
def test_identity_that_is_not_for_this_host(
    identity: Identity | None, given_policy: TrustPolicy, code: ErrorCode
) -> None:
    """Product, channel, index, date and a failure before: each alone is reason enough."""
    with pytest.raises(RefusedError) as caught:
        check_identity(identity, given_policy, NOW)
    assert caught.value.code is code


def pem(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


def test_revoked_key_is_no_key() -> None:
    """A key that is also in `revoked` is left out, and when none is left there is no keyring."""
    one, two = pem(generate_private_key(65537, 2048)), pem(generate_private_key(65537, 2048))
    assert [key.name for key in load_keyring({"1": one, "2": two}, {"x": one}).keys] == ["2"]
    with pytest.raises(RefusedError) as caught:
        load_keyring({"1": one}, {"x": one})
    assert caught.value.code is ErrorCode.KEY_REVOKED


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (b"", ErrorCode.KEY_UNREADABLE),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", ErrorCode.KEY_UNREADABLE),
        (pem(generate_private_key(65537, 1024)), ErrorCode.KEY_WEAK),
        (pem(generate_private_key(3, 2048)), ErrorCode.KEY_WEAK),
        (pem(ec.generate_private_key(ec.SECP256R1())), ErrorCode.KEY_WEAK),
    ],
)
def test_unsound_key_spoils_the_keyring(made: bytes, code: ErrorCode) -> None:
    """One key that can't be read or is weak means no keyring, however good the others are."""
    with pytest.raises(RefusedError) as caught:
        load_keyring({"good": pem(generate_private_key(65537, 2048)), "bad": made})
    assert caught.value.code is code


def test_sparse_hole_is_no_extent_of_the_partition() -> None:
    """A hole is neither out of range nor overlapping, so update_engine's no-op operations can be read."""
    parse(manifest(lambda m: extent(m, 0).__setattr__("start_block", SPARSE_HOLE)))
