"""Manifests in every encoding that protobuf knows: read in parts, they are what protobuf reads as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.campaign import scale
from updated.errors import RefusedError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.manifest import Extent, OpType
from updated.payload.operation import KINDS, parse_operation, read_operation
from updated.payload.outline import Places
from updated.payload.parse import read_outline

NUMBERS = st.one_of(st.integers(0, 300), st.sampled_from([2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]))
UNKNOWN = st.sampled_from([6, 7, 11, 15, 16, 99, 1000, 1007, 2**29 - 1])
PADDING = st.sampled_from([0, 0, 0, 0, 1, 2])  # bytes that a number takes more than it needs
MANIFEST: Descriptor = pb.DeltaArchiveManifest.DESCRIPTOR


def varint(value: int, padding: int = 0) -> bytes:
    """Encode a number, perhaps longer than it needs to be."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    groups += [0] * min(padding, 10 - len(groups))
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


@st.composite
def fields(draw: st.DrawFn, kind: Descriptor, depth: int = 0) -> bytes:
    """Return one field as it may stand in a message: one of its own, of another wire type, or unknown."""
    known = draw(st.sampled_from(list(kind.fields)))
    how = draw(st.sampled_from(["known"] * 6 + ["mistyped", "unknown"]))
    number = draw(UNKNOWN) if how == "unknown" else known.number
    natural = 0 if known.type not in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_BYTES, 9) else 2
    wire = natural if how == "known" else draw(st.sampled_from([0, 1, 2, 5]))
    head = varint(number << 3 | wire, draw(PADDING) if number < 2**14 else 0)
    if wire == 2:
        body = draw(messages(known.message_type, depth + 1)) if _is_list(known, how) else draw(st.binary(max_size=4))
        return head + varint(len(body), draw(PADDING)) + body
    fixed = {1: 8, 5: 4}.get(wire)
    return head + (draw(st.binary(min_size=fixed, max_size=fixed)) if fixed else varint(draw(NUMBERS), draw(PADDING)))


def _is_list(known: FieldDescriptor, how: str) -> bool:
    return how == "known" and known.type == FieldDescriptor.TYPE_MESSAGE


def messages(kind: Descriptor, depth: int = 0) -> st.SearchStrategy[bytes]:
    """Return messages whose fields stand in any order, as often as they like."""
    return st.lists(fields(kind, depth), max_size=12 if depth == 0 else 4).map(b"".join)


def whole(raw: bytes) -> pb.DeltaArchiveManifest | None:
    """Read a manifest as protobuf does."""
    try:
        return pb.DeltaArchiveManifest.FromString(raw)
    except DecodeError:
        return None


def in_parts(raw: bytes) -> pb.DeltaArchiveManifest | None:
    """Read a manifest as the product does, and put it together."""
    view = memoryview(raw)

    def operations(places: Places) -> Iterable[pb.InstallOperation]:
        return [parse_operation(view[begin:end].tobytes()) for begin, end in places]

    try:
        outline = read_outline(view)
        made = outline.message
        made.partition_operations.extend(operations(outline.v1_operations))
        made.noop_operations.extend(operations(outline.noops))
        for procedure, places in outline.procedures:
            procedure.operations.extend(operations(places))
            made.procedures.append(procedure)
        for update, places in outline.partitions:
            update.operations.extend(operations(places))
            made.partitions.append(update)
        made.packages.extend(outline.packages)
    except RefusedError:
        return None
    return made


def same(left: Message, right: Message) -> bool:
    """Compare messages, with the unknown fields in them and their order."""
    return left == right and left.SerializeToString(deterministic=True) == right.SerializeToString(deterministic=True)


@given(messages(MANIFEST))
@settings(max_examples=scale(300, 20_000), deadline=None)
def test_reading_in_parts_is_protobufs_own_reading(raw: bytes) -> None:
    """Fields in any order and repeated, unknown ones, longer numbers: what protobuf takes comes out the same."""
    expected, found = whole(raw), in_parts(raw)
    assert (found is None) == (expected is None)
    assert found is None or expected is None or same(found, expected)


SPOILS: tuple[Callable[[bytes, int], bytes], ...] = (
    lambda raw, at: raw[:at],
    lambda raw, at: raw[:at] + raw[at + 1 :],
    lambda raw, at: raw[:at] + b"\xff" + raw[at:],
    lambda raw, at: raw[:at] + bytes([raw[at] ^ 0x80]) + raw[at + 1 :],
    lambda raw, at: raw[:at] + bytes([raw[at] ^ 3]) + raw[at + 1 :],
)


@given(messages(MANIFEST).filter(bool), st.sampled_from(SPOILS), st.data())
@settings(max_examples=scale(300, 20_000), deadline=None)
def test_what_protobuf_refuses_is_refused(
    raw: bytes, spoil: Callable[[bytes, int], bytes], data: st.DataObject
) -> None:
    """Cut, shifted and changed bytes: nothing is taken that protobuf refuses, or for something else."""
    spoilt = spoil(raw, data.draw(st.integers(0, len(raw) - 1)))
    expected, found = whole(spoilt), in_parts(spoilt)
    assert found is None or (expected is not None and same(found, expected))


@given(messages(pb.InstallOperation.DESCRIPTOR))
@settings(max_examples=scale(300, 20_000), deadline=None)
def test_operation_is_what_protobuf_reads(raw: bytes) -> None:
    """Each field of an operation is protobuf's; a length that isn't given is that of the extents."""
    try:
        message = pb.InstallOperation.FromString(raw)
        found = read_operation(raw, 4096)
    except (DecodeError, RefusedError):
        return
    src, dst = (
        tuple(Extent(each.start_block, each.num_blocks) for each in extents)
        for extents in (message.src_extents, message.dst_extents)
    )
    assert found.type is OpType(message.type) is KINDS[message.type]
    assert (found.data_offset, found.data_length) == (message.data_offset, message.data_length)
    assert (found.data_sha256, found.src_sha256) == (message.data_sha256_hash, message.src_sha256_hash)
    assert (found.src_extents, found.dst_extents) == (src, dst)
    assert found.src_length == (message.src_length or sum(each.num_blocks for each in src) * 4096)
    assert found.dst_length == (message.dst_length or sum(each.num_blocks for each in dst) * 4096)
