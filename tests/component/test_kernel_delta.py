"""Payloads whose kernel is a delta, as update_engine's generator makes them: extracted, and installed on a host."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import bsdiff4
import pytest

from tests.component.test_install import Host, ours, payload_of, refused
from tests.component.test_reuse import Counting
from tests.support.agent_bench import Bench
from tests.support.releases import SLOT_BYTES, Workshop, sealed
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.checkpoint import Journal
from updated.install.files import FileTarget, OldFile
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import V1, V2
from updated.payload.manifest import Image, Manifest, OpType, Partition
from updated.release.extract import ImageFile, extract
from updated.release.sign import load_private_keys, signature_size

OLD, NEW = b"old kernel, " * 1000, b"new kernel! " * 1100  # neither is a whole number of blocks
ROOT = b"r" * 8192
SLOT = SLOT_BYTES
LOOSE = {"policy": {"allow_legacy_payloads": True}}


def make_payload(path: Path, workshop: Workshop, major: int = V1) -> Path:
    """Write a signed payload: a whole root, and a kernel as a patch, in place (version 1) or from file to file."""
    keys = load_private_keys(workshop.keys / "private.pem")
    patch, size = bsdiff4.diff(OLD, NEW), signature_size(keys)
    manifest = pb.DeltaArchiveManifest(block_size=4096)
    manifest.signatures_offset, manifest.signatures_size = len(ROOT) + len(patch), size
    kind, root, kernel = _partitions(manifest, major)
    _add(root, OpType.REPLACE, 0, ROOT, dst=(0, 2))
    operation = _add(kernel, kind, len(ROOT), patch, dst=(0, 4))
    operation.src_extents.add(start_block=0, num_blocks=3)
    operation.src_length, operation.dst_length = len(OLD), len(NEW)
    path.write_bytes(sealed(manifest, ROOT + patch, keys, major))
    return path


def _partitions(manifest: pb.DeltaArchiveManifest, major: int) -> tuple[OpType, Any, Any]:
    """Say what the images are; return what patches are called, and the lists of operations of root and kernel."""
    if major == V1:
        procedure = manifest.procedures.add(type=0)
        infos = manifest.new_partition_info, procedure.old_info, procedure.new_info
        found = OpType.BSDIFF, manifest.partition_operations, procedure.operations
    else:
        root, kernel = (manifest.partitions.add(partition_name=name) for name in ("root", "kernel"))
        infos = root.new_partition_info, kernel.old_partition_info, kernel.new_partition_info
        found = OpType.SOURCE_BSDIFF, root.operations, kernel.operations
    for info, content in zip(infos, (ROOT, OLD, NEW), strict=True):
        info.size, info.hash = len(content), hashlib.sha256(content).digest()
    return found


def _add(operations: Any, kind: OpType, offset: int, data: bytes, *, dst: tuple[int, int]) -> Any:
    operation = operations.add(type=kind, data_offset=offset, data_length=len(data))
    operation.data_sha256_hash = hashlib.sha256(data).digest()
    operation.dst_extents.add(start_block=dst[0], num_blocks=dst[1])
    return operation


@pytest.fixture(params=[V1, V2])
def payload(request: pytest.FixtureRequest, tmp_path: Path, workshop: Workshop) -> Path:
    return make_payload(tmp_path / "payload", workshop, request.param)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host whose slots have kernels of their own; A, the old one, runs."""
    (tmp_path / "vmlinuz-a").write_bytes(OLD)
    (tmp_path / "vmlinuz-b").write_bytes(b"an older one")
    return Host(tmp_path, None, SLOT)


def places(host: Host, *, old: str = "vmlinuz-a", new: str = "vmlinuz-b") -> dict[str, Any]:
    """Return what an install is told of the kernels."""
    return {"file_targets": {"kernel": host.folder / new}, "file_sources": {"kernel": host.folder / old}, **LOOSE}


def kernels(host: Host) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in host.folder.glob("vmlinuz*")}


def test_kernel_delta_is_extracted(tmp_path: Path, payload: Path) -> None:
    """The kernel is made of the old kernel, which stays as it is; its last block is no whole one."""
    (tmp_path / "old").write_bytes(OLD)
    extract(payload, "kernel", tmp_path / "kernel", old=tmp_path / "old", keyring=None)
    assert (tmp_path / "kernel").read_bytes() == NEW
    assert (tmp_path / "old").read_bytes() == OLD


def test_whole_root_beside_a_kernel_delta_needs_no_old_image(tmp_path: Path, payload: Path) -> None:
    """What needs the old file is the kernel, and only it."""
    extract(payload, "root", tmp_path / "root", old=None, keyring=None)
    assert (tmp_path / "root").read_bytes() == ROOT
    with pytest.raises(LocalError, match="kernel comes as a delta"):
        extract(payload, "kernel", tmp_path / "kernel", old=None, keyring=None)


def test_kernel_is_made_of_the_running_slots_kernel(host: Host, payload: Path, workshop: Workshop) -> None:
    """The other slot's kernel becomes the new one; the running slot's stays, and nothing else is left."""
    host.install(payload, ours(workshop), **places(host))
    assert kernels(host) == {"vmlinuz-a": OLD, "vmlinuz-b": NEW}
    assert host.content("B", len(ROOT)) == ROOT


def test_kernel_that_both_slots_share_is_replaced_by_a_rename(host: Host, payload: Path, workshop: Workshop) -> None:
    """Where there is one kernel only it is read to the end before it is replaced."""
    host.install(payload, ours(workshop), **places(host, new="vmlinuz-a"))
    assert kernels(host) == {"vmlinuz-a": NEW, "vmlinuz-b": b"an older one"}


@pytest.mark.parametrize("running", [b"", OLD[:-1], OLD + b"!", OLD.replace(b"old", b"odd"), None])
def test_delta_to_another_kernel_changes_nothing(
    host: Host, payload: Path, workshop: Workshop, running: bytes | None
) -> None:
    """A kernel that is missing, or not what the delta was made from, is refused before anything is written."""
    (host.folder / "vmlinuz-a").unlink()
    if running is not None:
        (host.folder / "vmlinuz-a").write_bytes(running)
    before = kernels(host)
    refused(host, payload, ours(workshop), ErrorCode.SOURCE_MISMATCH, **places(host))
    assert kernels(host) == before


def test_refused_delta_leaves_an_interrupted_install_as_it_was(
    tmp_path: Path, host: Host, payload: Path, workshop: Workshop
) -> None:
    """What can't be installed here is refused before anything that another release has done is forgotten."""
    journal = Journal(tmp_path / "journal", every_bytes=4096)
    other = payload_of(workshop, tmp_path)
    with pytest.raises(LocalError, match="cable"):
        host.install(
            other, ours(workshop), source=Counting(other, end_after=other.stat().st_size // 2), journal=journal
        )
    before = journal.read()
    (host.folder / "vmlinuz-a").write_bytes(b"another kernel")
    with pytest.raises(RefusedError) as caught:
        host.install(payload, ours(workshop), journal=journal, **places(host))
    assert caught.value.code is ErrorCode.SOURCE_MISMATCH
    assert before is not None
    assert journal.read() == before


def test_pipe_in_the_kernels_place_is_not_waited_for(
    tmp_path: Path, host: Host, payload: Path, workshop: Workshop
) -> None:
    """What isn't a file is no kernel."""
    (tmp_path / "vmlinuz-a").unlink()
    os.mkfifo(tmp_path / "vmlinuz-a")
    refused(host, payload, ours(workshop), ErrorCode.SOURCE_MISMATCH, **places(host))


def test_delta_whose_old_kernel_nobody_names_is_refused(host: Host, payload: Path, workshop: Workshop) -> None:
    """A place to write to isn't one to read from."""
    told = {**places(host), "file_sources": {}}
    refused(host, payload, ours(workshop), ErrorCode.NEW_PARTITION_INFO, **told)


@pytest.mark.parametrize(("old", "new"), [(5000, 13000), (13000, 5000), (4096, 4096)])
def test_whole_blocks_of_the_old_and_the_new_kernel_can_be_read(tmp_path: Path, old: int, new: int) -> None:
    """A delta in place may read any block that is in either; what neither has is zeros, and goes in the end."""
    content = b"o" * old
    (tmp_path / "old").write_bytes(content)
    after = content.ljust(new, b"\0")[:new]
    with (
        OldFile(tmp_path / "old", Image(old, hashlib.sha256(content).digest())) as source,
        FileTarget(tmp_path / "new", Image(new, hashlib.sha256(after).digest())) as target,
    ):
        source.check()
        assert source.read(4096, 12288) == content[4096:].ljust(12288, b"\0")
        target.begin_with(source, 4096)
        room = 4096 if old == new else 16384
        assert target.read(0, room) == content.ljust(room, b"\0")
        target.check()
        target.commit()
    assert (tmp_path / "new").read_bytes() == after


@pytest.mark.parametrize("major", [V1, V2])
def test_daemon_takes_the_running_slots_kernel_by_its_setting(
    bench: Bench, tmp_path: Path, workshop: Workshop, major: int
) -> None:
    """`slots.kernel_path` with {slot} names both: what is read, and what is written."""
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "vmlinuz-a").write_bytes(OLD)
    config = bench.machine.root / "updated.toml"
    text = config.read_text().replace(
        "[slots]", f'allow_legacy_payloads = true\n[slots]\nkernel_path = "{boot}/vmlinuz-{{slot}}"'
    )
    config.write_text(text)
    bench.machine.stop()
    bench.machine.start()
    bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
    done = bench.machine.ctl("apply", str(make_payload(tmp_path / "by-hand", workshop, major)), "--wait")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in boot.iterdir()} == {"vmlinuz-a": OLD, "vmlinuz-b": NEW}


def test_old_image_lacks_less_than_a_block(tmp_path: Path) -> None:
    """What an old image's last block lacks is read as zeros; one that lacks more is another image."""
    (tmp_path / "old").write_bytes(b"o" * 5000)
    with (tmp_path / "old").open("rb") as file:
        image = ImageFile(file.fileno(), 4096, fresh=False)
        assert image.read(4096, 4096) == (b"o" * 904).ljust(4096, b"\0")
        for offset, length in ((4096, 8192), (8192, 4096)):
            with pytest.raises(LocalError) as caught:
                image.read(offset, length)
            assert caught.value.code is ErrorCode.SOURCE_MISMATCH


def test_whole_kernel_beside_a_delta_of_the_slot_is_made_of_nothing() -> None:
    """A kernel says by its own operations whether it changes in place, whatever the slot's do; the slot goes by any."""
    old = Image(4096, b"h" * 32)
    root = Partition("root", (), old, old, kinds=frozenset({OpType.BSDIFF}))
    kernel = Partition("kernel", (), old, old, is_file=True, kinds=frozenset({OpType.REPLACE}))
    manifest = Manifest(1, 0, 4096, (root, kernel), None, (), 0, 0, 0)
    assert (manifest.changes_in_place(root), manifest.changes_in_place(kernel)) == (True, False)
