"""A large image's manifest: it is within the limits, and its operations are no objects."""

from __future__ import annotations

import tracemalloc
from array import array
from hashlib import sha256

import pytest

from updated.errors import ErrorCode, RefusedError
from updated.install.todo import NO_CHUNK, PartTodos, Todo, Todos, all_of
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import Header
from updated.payload.index import HEAD, find_chunks
from updated.payload.limits import LIMITS
from updated.payload.manifest import Extent, Manifest, OpType
from updated.payload.parse import parse_manifest

CHUNK, BLOCK = 64 * 1024, 4096


def manifest(count: int, *, backwards: bool = False, data_length: int = 60_000) -> bytes:
    """Return a manifest of an image that is full of data."""
    made = pb.DeltaArchiveManifest(block_size=BLOCK, product="p", channels=["c"], version="1")
    part = made.partitions.add(partition_name="root")
    part.new_partition_info.size, part.new_partition_info.hash = count * CHUNK, bytes(32)
    for number in range(count):
        op = part.operations.add(type=OpType.REPLACE_ZSTD, data_offset=number * data_length, data_length=data_length)
        op.data_sha256_hash, op.dst_length = sha256(b"%d" % number).digest(), CHUNK
        op.dst_extents.add(start_block=16 * (count - 1 - number if backwards else number), num_blocks=16)
    return made.SerializeToString()


def parse(raw: bytes) -> Manifest:
    return parse_manifest(raw, Header(2, len(raw)))


def test_image_of_4_gib_has_a_manifest_that_is_taken() -> None:
    """With the usual chunks, none of them zeros, and data that hardly pack."""
    raw = manifest(LIMITS.operations)
    assert len(raw) < LIMITS.manifest_bytes - LIMITS.packages * 512
    assert len(parse(raw).partitions[0].operations) == LIMITS.operations


@pytest.mark.parametrize("backwards", [False, True])
def test_operations_cost_little_memory(*, backwards: bool) -> None:
    """A dozen bytes for each, beside the manifest's own; 900 as objects."""
    count = 5000
    raw = manifest(count, backwards=backwards)
    parse(raw)  # what is made once isn't counted
    tracemalloc.start()
    taken = parse(raw)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(taken.partitions[0].operations) == count
    assert taken.partitions[0].ascending is not backwards
    assert held < 12 * count
    assert peak < (150 if backwards else 16) * count  # to be sorted, they are numbers for a moment


def test_operations_are_a_sequence() -> None:
    """One at a time, from the end, sliced and iterated twice: always the same values."""
    operations = parse(manifest(5)).partitions[0].operations
    assert [op.data_offset for op in operations] == [0, 60_000, 120_000, 180_000, 240_000]
    assert operations[-1].dst_extents == (Extent(64, 16),)
    assert list(operations[1:3]) == [operations[1], operations[2]]
    assert list(operations) == list(operations)
    with pytest.raises(IndexError):
        operations[5]


def test_overlap_is_found_in_any_order() -> None:
    """Operations that go back and forth write no block twice, however far apart they stand."""
    message = pb.DeltaArchiveManifest.FromString(manifest(6, backwards=True))
    parse(message.SerializeToString())
    message.partitions[0].operations[5].dst_extents[0].start_block = 16 * 4 + 15
    with pytest.raises(RefusedError) as caught:
        parse(message.SerializeToString())
    assert caught.value.code is ErrorCode.EXTENT_OVERLAP


def test_one_operation_of_too_many_extents_is_not_read() -> None:
    """Two million extents of two bytes would be 85 MiB of objects; they are counted first."""
    smallest = pb.InstallOperation(dst_extents=[pb.Extent()] * 1000).SerializeToString() * 2000
    update = pb.PartitionUpdate(partition_name="root")
    update.new_partition_info.size, update.new_partition_info.hash = BLOCK, bytes(32)
    body = update.SerializeToString() + b"\x42" + _varint(len(smallest)) + smallest
    raw = b"\x6a" + _varint(len(body)) + body
    with pytest.raises(RefusedError, match="an operation has more") as caught:
        parse(raw)
    assert caught.value.code is ErrorCode.LIMIT_EXCEEDED


def _varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head, value = head + bytes([value & 0x7F | 0x80]), value >> 7
    return head + bytes([value])


def test_todos_are_read_anew() -> None:
    """What is to be done can be iterated as often as is needed, and costs only numbers."""
    root = parse(manifest(4)).partitions[0]
    ops = root.operations
    todos = Todos((PartTodos(root, array("I", [1, 3]), array("i", [NO_CHUNK, 7])), all_of(root, 3)))
    wanted = [Todo(ops[1], "root", 1), Todo(ops[3], "root", 3, 7), Todo(ops[3], "root", 3)]
    assert (len(todos), list(todos), list(todos)) == (3, wanted, wanted)
    assert not todos.of(("kernel",))


def test_chunks_know_the_size_of_their_index() -> None:
    """An index has 16 bytes for each chunk and 5 for each block."""
    chunks = find_chunks(parse(manifest(3)).partitions[0])
    assert (len(chunks), chunks.blocks, list(chunks.starts)) == (3, 48, [0, 16, 32, 48])
    assert chunks.index_size == HEAD.size + 3 * 16 + 48 * 5
    assert chunks[2].data_offset == 120_000
