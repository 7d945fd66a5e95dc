"""What each payload version has for itself."""

from __future__ import annotations

import pytest

from updated.errors import ErrorCode, RefusedError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import Header
from updated.payload.manifest import OpType
from updated.payload.parse import parse_manifest


@pytest.mark.parametrize("kind", [OpType.ZERO, OpType.DISCARD, OpType.REPLACE_XZ, OpType.SOURCE_COPY])
def test_version_1_has_its_own_operations_only(kind: OpType) -> None:
    """What only version 2 knows is refused in version 1, whose manifest nobody has signed when it is carried out."""
    made = pb.DeltaArchiveManifest(product="p", channels=["stable"], version="1", rollback_index=1)
    made.new_partition_info.size, made.new_partition_info.hash = 4096, bytes(32)
    only = made.partition_operations.add(type=kind)
    only.dst_extents.add(start_block=0, num_blocks=1)
    if kind is OpType.SOURCE_COPY:
        only.src_extents.add(start_block=0, num_blocks=1)
    elif kind is OpType.REPLACE_XZ:
        only.data_length, only.data_sha256_hash = 5, bytes(32)
    raw = made.SerializeToString()
    with pytest.raises(RefusedError) as caught:
        parse_manifest(raw, Header(1, len(raw)))
    assert caught.value.code is ErrorCode.OPERATION_UNSUPPORTED
