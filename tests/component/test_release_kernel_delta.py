"""Version 1 deltas whose kernel is a delta too, as update_engine's generator makes them: each on its own old file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import bsdiff4
import pytest

from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.preflight import slot_partition
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import V1, Header, encode_header
from updated.payload.manifest import OpType
from updated.payload.parse import parse_manifest
from updated.release.extract import extract

OLD, NEW = b"old kernel, " * 1000, b"new kernel! " * 1100  # neither is a whole number of blocks
ROOT = b"r" * 8192


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """Write an unsigned payload: a whole root, and a kernel by BSDIFF."""
    patch = bsdiff4.diff(OLD, NEW)
    manifest = pb.DeltaArchiveManifest(block_size=4096)
    _add(manifest.partition_operations, OpType.REPLACE, 0, ROOT, dst=(0, 2))
    manifest.new_partition_info.size, manifest.new_partition_info.hash = len(ROOT), hashlib.sha256(ROOT).digest()
    procedure = manifest.procedures.add(type=0)
    operation = _add(procedure.operations, OpType.BSDIFF, len(ROOT), patch, dst=(0, 4))
    operation.src_extents.add(start_block=0, num_blocks=3)
    operation.src_length, operation.dst_length = len(OLD), len(NEW)
    procedure.old_info.size, procedure.old_info.hash = len(OLD), hashlib.sha256(OLD).digest()
    procedure.new_info.size, procedure.new_info.hash = len(NEW), hashlib.sha256(NEW).digest()
    raw = manifest.SerializeToString()
    path = tmp_path / "payload"
    path.write_bytes(encode_header(Header(V1, len(raw))) + raw + ROOT + patch)
    (tmp_path / "old").write_bytes(OLD)
    return path


def _add(operations, kind: OpType, offset: int, data: bytes, *, dst: tuple[int, int]):  # type: ignore[no-untyped-def]
    operation = operations.add(type=kind, data_offset=offset, data_length=len(data))
    operation.data_sha256_hash = hashlib.sha256(data).digest()
    operation.dst_extents.add(start_block=dst[0], num_blocks=dst[1])
    return operation


def test_kernel_delta_is_extracted(tmp_path: Path, payload: Path) -> None:
    """The kernel is made of the old kernel, which stays as it is; its last block is no whole one."""
    extract(payload, "kernel", tmp_path / "kernel", old=tmp_path / "old", keyring=None)
    assert (tmp_path / "kernel").read_bytes() == NEW
    assert (tmp_path / "old").read_bytes() == OLD


def test_whole_root_beside_a_kernel_delta_needs_no_old_image(tmp_path: Path, payload: Path) -> None:
    """What needs the old file is the kernel, and only it."""
    extract(payload, "root", tmp_path / "root", old=None, keyring=None)
    assert (tmp_path / "root").read_bytes() == ROOT
    with pytest.raises(LocalError, match="kernel comes as a delta"):
        extract(payload, "kernel", tmp_path / "kernel", old=None, keyring=None)


def test_host_refuses_a_kernel_delta_before_it_writes(payload: Path) -> None:
    """A host with a place for the kernel installs it whole only; one without skips it."""
    data = payload.read_bytes()
    header = Header(V1, int.from_bytes(data[12:20], "big"))
    manifest = parse_manifest(data[20 : header.metadata_size], header)
    assert slot_partition(manifest, {}).name == "root"
    with pytest.raises(RefusedError) as caught:
        slot_partition(manifest, {"kernel": Path("/boot/vmlinuz-b")})
    assert caught.value.code is ErrorCode.OPERATION_UNSUPPORTED
