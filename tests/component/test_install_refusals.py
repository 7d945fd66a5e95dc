"""What an install makes of bytes that nothing vouches for yet, and what it looks at before it changes anything.

A mirror that lies there is left for the next one, and nothing of its lies is kept.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.component.test_install import Host, ours, payload_of, refused
from tests.component.test_reuse import Counting
from tests.support.packages import tiny
from tests.support.releases import SLOT_BYTES, Workshop
from updated.errors import ErrorCode, LocalError, Retry, UpdateError
from updated.install.checkpoint import Journal
from updated.install.fetch import FileSource
from updated.install.packages import PackagePlan
from updated.install.slot_parts import FilePlaces, open_files
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import Header, encode_header, parse_header
from updated.payload.index import encode_index
from updated.payload.limits import LIMITS
from updated.payload.manifest import OpType
from updated.payload.parse import parse_manifest
from updated.payload.slot_set import slot_set
from updated.release.packages import PackageFile

MIB = 1024 * 1024


@pytest.fixture
def host(tmp_path: Path, workshop: Workshop) -> Host:
    return Host(tmp_path, workshop.image("1.0.0"), SLOT_BYTES)


def spoil_v1(payload: Path, change: Callable[[pb.DeltaArchiveManifest], object]) -> None:
    """Change the manifest of a version 1 payload, which is unsigned, and leave the payload as long as it was."""
    raw = payload.read_bytes()
    end = parse_header(raw[:24]).data_start
    manifest = pb.DeltaArchiveManifest.FromString(raw[20:end])
    change(manifest)
    made = manifest.SerializeToString()
    bad = encode_header(Header(1, len(made))) + made + raw[end:]
    payload.write_bytes(bad[: len(raw)].ljust(len(raw), b"\0"))


def why_not(host: Host, payload: Path, workshop: Workshop, **changes: object) -> UpdateError:
    with pytest.raises(UpdateError) as caught:
        host.install(payload, ours(workshop), **changes)
    return caught.value


FIRST_BYTES = {
    "another page": b"<html>" + bytes(1000),
    "version 3": b"CrAU" + struct.pack(">QQ", 3, 100) + bytes(1000),
    "a manifest of 8 MiB": b"CrAU" + struct.pack(">QQI", 2, 8 * MIB, 264) + bytes(1000),
    "no manifest": b"CrAU" + struct.pack(">QQ", 1, 100) + b"\xff" * 1000,
    "no metadata signature": b"CrAU" + struct.pack(">QQI", 2, 100, 0) + bytes(1000),
    "too many metadata signatures": b"CrAU" + struct.pack(">QQI", 2, 100, 40) + bytes(100) + b"\x0a\x02\x12\x00" * 10,
}


@pytest.mark.parametrize("lie", FIRST_BYTES)
def test_what_is_refused_unverified_is_asked_of_another_mirror(
    tmp_path: Path, host: Host, workshop: Workshop, lie: str
) -> None:
    """Whatever the first bytes are: until a key has vouched for them, they may be one mirror's own."""
    payload = tmp_path / "x.payload"
    payload.write_bytes(FIRST_BYTES[lie])
    assert why_not(host, payload, workshop).retry is Retry.OTHER_SOURCE


V1_LIES: dict[str, tuple[Callable[[pb.DeltaArchiveManifest], object], ErrorCode]] = {
    "another product": (lambda m: setattr(m, "product", m.product[:-1] + "X"), ErrorCode.PRODUCT_MISMATCH),
    "an old release": (lambda m: setattr(m, "rollback_index", 0), ErrorCode.ROLLBACK_INDEX_TOO_LOW),
    "a huge image": (lambda m: setattr(m.new_partition_info, "size", SLOT_BYTES * 2), ErrorCode.TARGET_TOO_SMALL),
    "an operation of version 2": (
        lambda m: setattr(m.partition_operations[0], "type", OpType.REPLACE_XZ),
        ErrorCode.OPERATION_UNSUPPORTED,
    ),
}


@pytest.mark.parametrize("lie", V1_LIES)
def test_what_version_1_says_is_a_mirrors_word(tmp_path: Path, host: Host, workshop: Workshop, lie: str) -> None:
    """Of a payload of version 1 nothing is proven before its end: what its manifest says may be one mirror's own."""
    change, code = V1_LIES[lie]
    payload = payload_of(workshop, tmp_path, major=1)
    spoil_v1(payload, change)
    error = why_not(host, payload, workshop, policy={"rollback_floor": 1})
    assert (error.code, error.retry) == (code, Retry.OTHER_SOURCE)


def test_what_was_signed_is_the_same_everywhere(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """A release that policy refuses is asked of no other mirror, once a key has vouched for what it is."""
    error = why_not(host, payload_of(workshop, tmp_path), workshop, policy={"product": "another"})
    assert (error.code, error.retry) == (ErrorCode.PRODUCT_MISMATCH, Retry.NO)


def test_what_is_wrong_with_this_host_is_wrong_with_every_mirror(
    tmp_path: Path, host: Host, workshop: Workshop
) -> None:
    """A slot that another installer holds is no reason to look elsewhere, whatever the payload's version."""
    payload = payload_of(workshop, tmp_path, major=1)
    with host.disk.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        error = why_not(host, payload, workshop)
    assert (error.code, error.retry) == (ErrorCode.TARGET_BUSY, Retry.LATER)


def test_kept_lies_do_not_outlast_their_mirror(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """A mirror's unsigned manifest isn't taken from the journal: the next try goes by what its own mirror says."""
    payload, journal = payload_of(workshop, tmp_path, major=1), Journal(tmp_path / "journal", every_bytes=4096)
    right = payload.read_bytes()
    offered = {"offer_sha256": sha256(right).digest(), "offer_size": len(right), "journal": journal}
    spoil_v1(payload, lambda m: setattr(m.partition_operations[-1], "data_sha256_hash", b"x" * 32))
    with pytest.raises(LocalError, match="cable"):
        host.install(payload, ours(workshop), source=Counting(payload, end_after=len(right) // 2), **offered)
    assert list((tmp_path / "journal").iterdir())
    payload.write_bytes(right)
    source = Counting(payload)
    assert host.install(payload, ours(workshop), source=source, **offered).version == "1.1.0"
    assert source.count == len(right)  # not the lie first, and the truth after it


def full_below(name: str) -> Callable[[int], object]:
    """Return an os.fstatvfs of a host where the file system of one file is full."""
    honest = os.fstatvfs

    def told(fd: int) -> object:
        here = Path(f"/proc/self/fd/{fd}").readlink().name.startswith(name)
        return SimpleNamespace(f_bavail=1, f_frsize=4096) if here else honest(fd)

    return told


def test_kernel_has_a_bound_of_its_own(
    tmp_path: Path, host: Host, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file beside the slot can't be as large as its file system: it is refused while slot B can still boot."""
    payload = payload_of(workshop, tmp_path, kernel=tiny(tmp_path, "vmlinuz", 5000))
    at = {"file_targets": {"kernel": tmp_path / "vmlinuz-b"}}
    with monkeypatch.context() as patch:
        patch.setattr("updated.install.slot_parts.LIMITS", replace(LIMITS, file_bytes=4999))
        refused(host, payload, ours(workshop), ErrorCode.LIMIT_EXCEEDED, **at)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", full_below("vmlinuz-b"))
        refused(host, payload, ours(workshop), ErrorCode.NO_SPACE, **at)
    assert not list(tmp_path.glob("vmlinuz-b*"))


def test_packages_without_room_leave_the_slot_as_it_is(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """Room for packages is looked for before anything of the payload is fetched, while slot B can still boot."""
    payload = payload_of(workshop, tmp_path, packages=(PackageFile(tiny(tmp_path, "oem.raw", 70_000)),))
    plan = PackagePlan(lambda name, _size: FileSource(tmp_path / name), tmp_path / "packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=1, f_frsize=4096))
        refused(host, payload, ours(workshop), ErrorCode.NO_SPACE, packages=plan)


def test_last_block_has_to_fit_into_the_slot(tmp_path: Path, workshop: Workshop) -> None:
    """An image is written in whole blocks: one that fills a slot of no whole number of them is refused at once."""
    size = SLOT_BYTES + 512
    host, odd = Host(tmp_path, None, size), tmp_path / "odd.img"
    with odd.open("wb") as image:
        image.truncate(size)
    assert host.slot("B").size == size
    refused(host, payload_of(workshop, tmp_path, image=odd), ours(workshop), ErrorCode.TARGET_TOO_SMALL)


def test_signed_index_that_nobody_can_read_is_done_without(
    tmp_path: Path, host: Host, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index of a later format saves no download, and is no reason to refuse a release."""

    def later(described: Any, block_size: int) -> bytes:
        raw = bytearray(encode_index(described, block_size))
        raw[4] += 1  # its version
        return bytes(raw)

    monkeypatch.setattr("updated.release.build.encode_index", later)
    plan = PackagePlan(lambda name, _size: FileSource(tmp_path / name))
    done = host.install(payload_of(workshop, tmp_path), ours(workshop), packages=plan)
    assert (done.bytes_reused, host.content("B")) == (0, workshop.image("1.1.0").read_bytes())


def test_procedure_that_nothing_is_done_with_is_told() -> None:
    """What a payload of version 1 brings for PCR policies is skipped, and the log says so."""
    made = pb.DeltaArchiveManifest()
    made.new_partition_info.size, made.new_partition_info.hash = 4096, bytes(32)
    made.procedures.add(type=1)
    raw = made.SerializeToString()
    manifest = parse_manifest(raw, Header(1, len(raw)))
    with ExitStack() as stack, capture_logs() as lines:
        assert open_files(manifest, slot_set(manifest), FilePlaces({}, {}), stack) == {}
    assert [(line["event"], line["name"]) for line in lines] == [("procedure-skipped", "pcr-policy")]
