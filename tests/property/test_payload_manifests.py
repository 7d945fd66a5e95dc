"""Manifests of the right form with the worst numbers, carried out: they make an image or one of our own errors."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.campaign import scale
from updated.errors import ErrorCode, UpdateError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import Header, encode_header
from updated.payload.limits import LIMITS
from updated.payload.manifest import SPARSE_HOLE
from updated.release.extract import extract, inspect

DATA = b"data of an operation"
NUMBERS = st.one_of(
    st.integers(0, 5),
    st.sampled_from([2**20, 2**31, 2**32, 2**44, 2**51, 2**52, 2**63 - 1, 2**63, SPARSE_HOLE - 1, SPARSE_HOLE]),
)
SIZES = st.one_of(st.sampled_from([0, 1, 4096, 4097, 5 * 4096]), NUMBERS)
# of an image: nothing between, for a sparse file of 16 TiB is legal and would be hashed to its end
IMAGE_SIZES = st.sampled_from([0, 1, 4096, 4097, 5 * 4096, LIMITS.image_bytes + 1, 2**63, SPARSE_HOLE])
HASHES = st.sampled_from([b"", b"h" * 32])
EXTENTS = st.lists(st.builds(pb.Extent, start_block=NUMBERS, num_blocks=st.integers(0, 3)), max_size=3)


def info(size: int, digest: bytes) -> pb.ImageInfo:
    return pb.ImageInfo(size=size, hash=digest)


INFOS = st.builds(info, IMAGE_SIZES, HASHES)
OPERATIONS = st.lists(
    st.builds(
        pb.InstallOperation,
        type=st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 14, 15]),
        data_offset=st.just(0),
        data_length=st.one_of(st.just(0), st.just(len(DATA)), SIZES),
        src_extents=EXTENTS,
        src_length=SIZES,
        dst_extents=EXTENTS,
        dst_length=st.one_of(st.just(0), st.just(len(DATA)), SIZES),
        data_sha256_hash=HASHES,
    ),
    max_size=3,
)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Return a payload of either version around a drawn manifest."""
    major = draw(st.sampled_from([1, 2]))
    manifest = pb.DeltaArchiveManifest(block_size=draw(st.sampled_from([0, 512, 4096])))
    operations, old, new = draw(OPERATIONS), draw(INFOS), draw(INFOS)
    if major == 1:
        manifest.partition_operations.extend(operations)
        manifest.old_partition_info.CopyFrom(old)
        manifest.new_partition_info.CopyFrom(new)
    else:
        manifest.partitions.add(
            partition_name="root", operations=operations, old_partition_info=old, new_partition_info=new
        )
    manifest.signatures_offset, manifest.signatures_size = draw(SIZES), draw(SIZES)
    raw = manifest.SerializeToString()
    return encode_header(Header(major, len(raw))) + raw + DATA * 3


@given(payloads())
@settings(max_examples=scale(300, 10_000), deadline=None)
def test_worst_numbers_have_an_error_of_ours(payload: bytes) -> None:
    """Whatever the numbers of a manifest, nothing but our own errors leaves `inspect` and `extract`."""
    with tempfile.TemporaryDirectory() as name:
        path, old = Path(name) / "payload", Path(name) / "old"
        path.write_bytes(payload)
        old.write_bytes(bytes(5 * 4096))
        for act in (
            lambda: inspect(path),
            lambda: extract(path, "root", Path(name) / "out", old=old, keyring=None),
        ):
            try:
                act()
            except UpdateError as error:
                assert error.code in ErrorCode  # noqa: PT017 - either outcome is right
        assert {left.name for left in Path(name).iterdir()} <= {"payload", "old", "out"}
