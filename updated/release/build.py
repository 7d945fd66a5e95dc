"""Builds a signed payload from an image, the same bytes each time.

Version 2 is this product's own: chunks of about 64 KiB along the image's files (cuts.py), zstd, ZERO operations,
metadata signature. Version 1 is what update_engine takes: 1 MiB chunks, bzip2, no-op operations for whatever old
clients must skip, the signature last.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from updated.errors import ErrorCode, LocalError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import V1, V2, Header, encode_header
from updated.payload.index import encode_index
from updated.payload.limits import LIMITS
from updated.payload.manifest import SPARSE_HOLE, OpType
from updated.payload.parse import parse_manifest
from updated.payload.slot_set import VERITY, slot_set
from updated.release.beside import beside
from updated.release.chunks import BLOCK, Chunked, Plan, chunk_image
from updated.release.cuts import cut, owners
from updated.release.packages import Measured, add_index, add_packages, measure, write_release
from updated.release.request import BuildRequest, check_request
from updated.release.sign import load_private_keys, sign, signature_size
from updated.release.slot_parts import verity_tree
from updated.release.verity import Tree

__all__ = ["BuildRequest", "build"]

CHUNK = 64 * 1024  # bytes
VERITY_CHUNK = 1024 * 1024  # bytes: hashes can't be compressed, so that small chunks save nothing
PACKAGE_ROOM = LIMITS.packages * 512  # bytes of the manifest for what is added last: names of up to 200, hashes
V1_CHUNK = 1024 * 1024  # update_engine's
MINOR_FULL, MINOR_DELTA = 0, 4  # AOSP's numbers: from 4 on there is BROTLI_BSDIFF
V1_MOST_DATA = 2**32 - 1  # bytes: version 1 has offsets of 32 bits, and the last one is the end of all data
COPY_PIECE = 1024 * 1024


def build(request: BuildRequest) -> Path:
    """Write NAME.payload, NAME.index and NAME.release.json; return the latter's path.

    The index is what version 2 has from full payloads on.

    Raises:
        LocalError: USAGE for a request that can't be met, STATE for files that can't be read or written.
        RefusedError: the key is no good, or hosts would refuse what was built.
    """
    payload = request.payload
    try:
        check_request(request)
        keys = load_private_keys(request.key)
        request.out.mkdir(parents=True, exist_ok=True)
        tree = verity_tree(request)
        with tempfile.TemporaryFile(dir=request.out) as spool:
            manifest, index = _manifest(request, spool, keys, tree)
            packages = add_packages(manifest, request.packages, request.out)
            if index is not None:
                packages.insert(0, add_index(manifest, index, payload.with_suffix(".index")))
            metadata_size = _write(payload, manifest, spool, keys, request.major)
        return _describe(request, payload, metadata_size, packages)
    except OSError as error:
        raise LocalError(
            ErrorCode.STATE,
            f"{error.filename or request.out}: {error.strerror}",
            hint="Look at the path and free space.",
        ) from error


def _manifest(
    request: BuildRequest, spool: BinaryIO, keys: Sequence[RSAPrivateKey], tree: Tree | None
) -> tuple[pb.DeltaArchiveManifest, bytes | None]:
    """Compress everything into the spool; return its description, and the index if there is one."""
    manifest = pb.DeltaArchiveManifest(
        block_size=BLOCK,
        product=request.product,
        channels=[request.channel],
        version=request.version,
        rollback_index=request.rollback_index,
    )
    if request.not_after is not None:
        manifest.not_after = request.not_after
    index = None
    if request.major == V1:
        end = _add_v1(manifest, request, spool)
    else:
        end, index = _add_v2(manifest, request, spool, tree)
    manifest.signatures_offset, manifest.signatures_size = end, signature_size(keys)
    if request.major == V1:
        _add_noop(manifest, pb.InstallOperation(data_offset=end, data_length=manifest.signatures_size))
    _check_limits(manifest, request)
    return manifest, index


def _check_limits(manifest: pb.DeltaArchiveManifest, request: BuildRequest) -> None:
    """See that hosts will take the manifest: what they refuse must not be published.

    Raises:
        LocalError: USAGE.
    """
    groups = [manifest.partition_operations, manifest.noop_operations]
    groups += [procedure.operations for procedure in manifest.procedures]
    groups += [partition.operations for partition in manifest.partitions]
    operations = sum(map(len, groups))
    extents = sum(len(op.src_extents) + len(op.dst_extents) for group in groups for op in group)
    size = manifest.ByteSize() + PACKAGE_ROOM
    if operations <= LIMITS.operations and extents <= LIMITS.extents and size <= LIMITS.manifest_bytes:
        return
    if request.major == V1:
        hint = "Build version 2, whose chunks can be larger: leave --major out."
    elif request.old is not None:
        hint = "Build a full payload: leave --old out."
    else:
        hint = "Let the chunks be larger: leave --chunk-kib out, or double it until this is met."
    raise LocalError(
        ErrorCode.USAGE,
        f"the payload would have {operations} operations with {extents} extents, {size} bytes of manifest; hosts take"
        f" up to {LIMITS.operations} with {LIMITS.extents} and {LIMITS.manifest_bytes} bytes",
        hint=hint,
    )


def _add_v2(
    manifest: pb.DeltaArchiveManifest, request: BuildRequest, spool: BinaryIO, tree: Tree | None
) -> tuple[int, bytes | None]:
    plan = Plan(request.compression or "zstd", zeros=True, jobs=request.jobs, index=True)
    index, lengths = None, _lengths(request, tree)
    if request.old is None:
        manifest.minor_version = MINOR_FULL
        root = chunk_image(request.image, spool, lengths[request.partition], start=0, plan=plan)
        _add_partition(manifest, request.partition, root)
        end, index = root.data_end, encode_index(root.described, BLOCK)
    else:
        manifest.minor_version = MINOR_DELTA
        end = _add_delta(manifest, request, request.old, spool)
    further = {name: (path, lengths[name]) for name, path in request.boot_files.items()}
    with ExitStack() as stack:
        if tree is not None:
            manifest.root_hash = tree.root_hash
            further = {VERITY: (stack.enter_context(_file_of(tree, request.out)), repeat(VERITY_CHUNK)), **further}
        for name, (path, cuts) in further.items():  # whole, whether the root comes as a delta or not
            part = chunk_image(path, spool, cuts, start=end, plan=dataclasses.replace(plan, index=False))
            _add_partition(manifest, name, part)
            end = part.data_end
    return end, index


@contextmanager
def _file_of(tree: Tree, folder: Path) -> Iterator[Path]:
    """Yield a file that has the tree in it."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".verity") as file:
        file.write(tree.data)
        file.flush()
        yield Path(file.name)


def _lengths(request: BuildRequest, tree: Tree | None) -> dict[str, Iterable[int]]:
    """Return how each image is cut, by its partition's name: as the request says, or along its files.

    The usual size of a chunk is doubled until the images can't have more chunks than hosts take.
    """
    images = {request.partition: request.image, **request.boot_files}
    if request.chunk_kib is not None:
        return dict.fromkeys(images, repeat(request.chunk_kib * 1024))
    owner, chunk = {name: owners(image) for name, image in images.items()}, CHUNK
    most = LIMITS.operations - (-(-len(tree.data) // VERITY_CHUNK) if tree is not None else 0)
    while sum(1 for name in images for _ in cut(owner[name], chunk)) > most:
        chunk *= 2
    # an image that grew meanwhile goes on in chunks of the usual size
    return {name: chain(cut(owner[name], chunk), repeat(chunk)) for name in images}


def _add_delta(manifest: pb.DeltaArchiveManifest, request: BuildRequest, old: Path, spool: BinaryIO) -> int:
    try:
        from updated.release.delta import make_delta  # noqa: PLC0415 - bsdiff4 comes with an extra
    except ImportError as error:
        raise LocalError(
            ErrorCode.USAGE, f"deltas can't be made here: {error}", hint="Install updated[release]."
        ) from error
    delta = make_delta(old, request.image, spool, jobs=request.jobs)
    partition = manifest.partitions.add(partition_name=request.partition, operations=delta.operations)
    partition.old_partition_info.size, partition.old_partition_info.hash = delta.plan.old_size, delta.plan.old_sha256
    partition.new_partition_info.size, partition.new_partition_info.hash = delta.plan.new_size, delta.plan.new_sha256
    return delta.data_end


def _add_partition(manifest: pb.DeltaArchiveManifest, name: str, chunked: Chunked) -> None:
    partition = manifest.partitions.add(partition_name=name, operations=chunked.operations)
    partition.new_partition_info.size, partition.new_partition_info.hash = chunked.size, chunked.sha256


def _add_v1(manifest: pb.DeltaArchiveManifest, request: BuildRequest, spool: BinaryIO) -> int:
    lengths = repeat(V1_CHUNK if request.chunk_kib is None else request.chunk_kib * 1024)
    plan = Plan(request.compression or "bz2", zeros=False, jobs=request.jobs, most_data=V1_MOST_DATA)
    root = chunk_image(request.image, spool, lengths, start=0, plan=plan)
    manifest.partition_operations.extend(root.operations)
    manifest.new_partition_info.size, manifest.new_partition_info.hash = root.size, root.sha256
    if request.kernel is None:
        return root.data_end
    kernel = chunk_image(request.kernel, spool, lengths, start=root.data_end, plan=plan)
    procedure = manifest.procedures.add(type=0, operations=kernel.operations)
    procedure.new_info.size, procedure.new_info.hash = kernel.size, kernel.sha256
    for operation in kernel.operations:
        _add_noop(manifest, operation)
    return kernel.data_end


def _add_noop(manifest: pb.DeltaArchiveManifest, operation: pb.InstallOperation) -> None:
    """Cover data that old clients know nothing of with an operation that writes them into a sparse hole."""
    noop = manifest.noop_operations.add(
        type=OpType.REPLACE, data_offset=operation.data_offset, data_length=operation.data_length
    )
    if operation.data_sha256_hash:
        noop.data_sha256_hash = operation.data_sha256_hash
    noop.dst_extents.add(start_block=SPARSE_HOLE, num_blocks=-(-operation.data_length // BLOCK))


def _write(
    payload: Path, manifest: pb.DeltaArchiveManifest, spool: BinaryIO, keys: Sequence[RSAPrivateKey], major: int
) -> int:
    """Write the payload beside its name and rename it; return the size of its metadata.

    It is read as hosts read it before it is signed: what they would refuse is never published.

    Raises:
        RefusedError: what hosts would refuse it for.
    """
    raw = manifest.SerializeToString(deterministic=True)
    header = Header(major, len(raw), signature_size(keys) if major == V2 else 0)
    slot_set(parse_manifest(raw, header))
    metadata = encode_header(header) + raw
    signed = hashlib.sha256(metadata)
    with beside(payload) as part, part.open("wb") as out:
        out.write(metadata)
        if major == V2:
            out.write(sign(signed.digest(), keys))
        spool.seek(0)
        while piece := spool.read(COPY_PIECE):
            signed.update(piece)
            out.write(piece)
        out.write(sign(signed.digest(), keys))
    return len(metadata)


def _describe(request: BuildRequest, payload: Path, metadata_size: int, packages: Sequence[Measured]) -> Path:
    """Write NAME.release.json, which update-server reads."""
    whole = measure(payload, "payload")
    facts = {
        "product": request.product,
        "channel": request.channel,
        "channels": [request.channel],
        "version": request.version,
        "rollback_index": request.rollback_index,
        "not_after": request.not_after,
        "payload": payload.name,
        "size": whole.size,
        "sha1": base64.b64encode(whole.sha1).decode(),
        "sha256": whole.sha256.hex(),
        "metadata_size": metadata_size,
        "packages": [package.as_dict() for package in packages],
    }
    return write_release(payload, facts)
