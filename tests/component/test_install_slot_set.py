"""A slot is a set: root, verity tree and boot files are installed as one, or nothing of them is."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.component.test_install import BOTH, Host, ours, payload_of, refused
from tests.component.test_reuse import Counting
from tests.support.disks import make_disk
from tests.support.images import ENV
from tests.support.releases import SLOT_BYTES, Workshop, sealed
from tests.support.uki import make_uki
from updated.errors import ErrorCode, LocalError, RefusedError, UpdateError
from updated.install.checkpoint import Journal
from updated.install.fetch import FileSource
from updated.install.packages import PackagePlan
from updated.install.pipeline import Installed
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import HEADER_BYTES, parse_header
from updated.payload.limits import LIMITS
from updated.release.sign import load_private_keys
from updated.release.slot_parts import tree_of
from updated.slots.boot.gptprio import GptPrio
from updated.slots.layout import Layout

BLOCK = 4096
HASH_BYTES = 1024 * 1024
NAMES = ("kernel", "initrd", "uki")
V1 = Path(__file__).parents[2] / "fixtures/payloads/crau-v1"


class Verified(Host):
    """A host whose slots have hash partitions, and whose boot files are in one directory."""

    def __init__(self, folder: Path, image: Path, hash_bytes: int = HASH_BYTES) -> None:
        super().__init__(folder, image, SLOT_BYTES)
        self.disk.unlink()
        make_disk(self.disk, SLOT_BYTES, {"USR-A": image}, bits=BOTH, hash_bytes=hash_bytes)
        running = GptPrio(self.disk, booted_partuuids=()).slots()[0].partuuid
        self.files = folder / "files"
        self.files.mkdir()
        self.layout = Layout(
            verity_labels=("USR-A-VERITY", "USR-B-VERITY"),
            files={name: self.files / f"{name}-{{slot}}" for name in NAMES},
        )
        self.running = running
        self.boot = GptPrio(self.disk, booted_partuuids=(running,), layout=self.layout)

    def without(self, **changes: Any) -> None:
        """Take something of the layout away."""
        self.layout = replace(self.layout, **changes)
        self.boot = GptPrio(self.disk, booted_partuuids=(self.running,), layout=self.layout)

    def hashes(self, name: str, size: int = HASH_BYTES) -> bytes:
        place = self.boot.verity_of(self.slot(name))
        assert place
        with self.disk.open("rb") as disk:
            disk.seek(place[1])
            return disk.read(size)

    def install(self, payload: Path, keys: dict[str, bytes], **changes: Any) -> Installed:
        a, b = self.boot.slots()
        places = {"file_targets": self.boot.files_of(b), "file_sources": self.boot.files_of(a)}
        return super().install(payload, keys, **{**places, **changes})

    def found(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.files.iterdir()}


@pytest.fixture
def host(tmp_path: Path, workshop: Workshop) -> Verified:
    host = Verified(tmp_path, workshop.image("1.0.0"))
    for name in ("kernel-a", "initrd-a", "kernel-b", "initrd-b", "uki-b"):
        (host.files / name).write_bytes(f"the old {name}".encode())
    return host


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A kernel and an initrd."""
    folder = tmp_path_factory.mktemp("files")
    made = {name: folder / name for name in ("kernel", "initrd")}
    for number, path in enumerate(made.values()):
        path.write_bytes(os.urandom(300_001 + number))
    return made


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop, files: dict[str, Path]) -> Path:
    """A release with all of them, and a tree."""
    return payload_of(workshop, tmp_path_factory.mktemp("set"), make_verity=True, **files)


def is_whole(host: Verified, workshop: Workshop, files: dict[str, Path], done: Installed) -> None:
    """See that slot B has root, tree and files of 1.1.0 and nothing else, and that veritysetup takes the two."""
    tree = tree_of(workshop.image("1.1.0"))
    assert host.content("B") == workshop.image("1.1.0").read_bytes()
    assert host.hashes("B", len(tree.data)) == tree.data
    expected = {f"{name}-b": path.read_bytes() for name, path in files.items()}
    assert {name: data for name, data in host.found().items() if not name.endswith("-a")} == expected
    assert (done.files, done.root_hash) == (frozenset(files), tree.root_hash)
    (host.folder / "tree").write_bytes(host.hashes("B"))
    command = ["veritysetup", "verify", str(workshop.image("1.1.0")), str(host.folder / "tree"), tree.root_hash]
    subprocess.run(command, env=ENV, check=True)


def test_a_set_lands_in_the_other_slot(
    host: Verified, workshop: Workshop, files: dict[str, Path], payload: Path
) -> None:
    """Root, tree, kernel and initrd are in slot B, its old UKI is gone, slot A has what it had, nothing is armed."""
    before = (host.content("A"), host.hashes("A"), {n: d for n, d in host.found().items() if n.endswith("-a")})
    done = host.install(payload, ours(workshop))
    is_whole(host, workshop, files, done)
    assert not host.slot("B").bootable
    assert before == (
        host.content("A"), host.hashes("A"), {n: d for n, d in host.found().items() if n.endswith("-a")}
    )  # fmt: skip


def test_a_uki_replaces_kernel_and_initrd(tmp_path: Path, host: Verified, workshop: Workshop) -> None:
    """A release that is booted by a UKI leaves no kernel and no initrd of the release before it in its slot."""
    uki = tmp_path / "uki.efi"
    uki.write_bytes(make_uki(f"usrhash={tree_of(workshop.image('1.1.0')).root_hash}"))
    done = host.install(payload_of(workshop, tmp_path, make_verity=True, uki=uki), ours(workshop))
    is_whole(host, workshop, {"uki": uki}, done)


@pytest.mark.parametrize("kind", ["reuse", "delta"])
def test_a_set_with_reuse_or_as_a_delta(
    tmp_path: Path, host: Verified, workshop: Workshop, files: dict[str, Path], kind: str
) -> None:
    """What is saved on the root's download changes nothing of the other parts."""
    old = workshop.image("1.0.0") if kind == "delta" else None
    payload = payload_of(workshop, tmp_path, make_verity=True, old=old, **files)
    plan = PackagePlan(lambda name, _size: FileSource(payload.with_name(name)))
    done = host.install(payload, ours(workshop), packages=plan)
    is_whole(host, workshop, files, done)
    assert (done.bytes_reused > 0) == (kind == "reuse")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 0.97])
def test_an_interrupted_install_of_a_set_goes_on(
    tmp_path: Path, host: Verified, workshop: Workshop, files: dict[str, Path], share: float, payload: Path
) -> None:
    """Cut in the root, in the tree or in a boot file: the next try fetches less, and the set is whole."""
    journal, size = Journal(tmp_path / "journal", every_bytes=BLOCK), payload.stat().st_size
    with pytest.raises(LocalError, match="cable"):
        host.install(payload, ours(workshop), source=Counting(payload, end_after=int(size * share)), journal=journal)
    assert not host.slot("B").bootable
    assert not [name for name in host.found() if name.endswith("-b")]
    done = host.install(payload, ours(workshop), journal=journal)
    is_whole(host, workshop, files, done)
    assert done.bytes_done < size


def test_a_set_without_a_tree_on_a_host_without_hash_partitions(
    tmp_path: Path, host: Verified, workshop: Workshop, files: dict[str, Path]
) -> None:
    """A host that doesn't verify its slots takes root, kernel and initrd into a folder that isn't there yet."""
    host.without(verity_labels=(), files={name: host.files / f"slot-{{slot}}/{name}" for name in NAMES})
    done = host.install(payload_of(workshop, tmp_path, **files), ours(workshop))
    assert (done.files, done.root_hash) == (frozenset(files), None)
    assert (host.files / "slot-b/initrd").read_bytes() == files["initrd"].read_bytes()


def test_a_part_without_a_place_is_refused(
    host: Verified, workshop: Workshop, files: dict[str, Path], payload: Path
) -> None:
    """A tree, a kernel or an initrd that this host has no place for stops the install before anything is changed."""
    for code, changes in (
        (ErrorCode.BOOT_FILE_NO_PLACE, {"files": {}}),
        (ErrorCode.BOOT_FILE_NO_PLACE, {"files": {"kernel": host.files / "kernel-{slot}"}}),
        (ErrorCode.VERITY_NO_PLACE, {"verity_labels": ()}),
    ):
        before, layout = host.found(), host.layout
        host.without(**changes)
        refused(host, payload, ours(workshop), code)
        assert host.found() == before
        host.without(**{name: getattr(layout, name) for name in changes})


def test_a_part_that_is_missing_is_refused(
    tmp_path: Path, host: Verified, workshop: Workshop, files: dict[str, Path]
) -> None:
    """A slot isn't left with the tree or the kernel of another release: what lacks them is refused."""
    no_tree, no_kernel = (
        payload_of(workshop, tmp_path / "a", **files),
        payload_of(workshop, tmp_path / "b", make_verity=True),
    )
    for payload in (no_tree, no_kernel):
        refused(host, payload, ours(workshop), ErrorCode.SLOT_SET_INCOMPLETE)


def test_boot_files_are_left_out_where_that_is_said(
    tmp_path: Path, host: Verified, workshop: Workshop, files: dict[str, Path]
) -> None:
    """With skip_boot_files a release is installed without its kernel, and what lies there stays as it is."""
    before = host.found()
    for number, parts in enumerate((files, {})):
        payload = payload_of(workshop, tmp_path / str(number), make_verity=True, **parts)
        done = host.install(payload, ours(workshop), skip_boot_files=True)
        assert (done.files, host.found()) == (frozenset(), before)
        assert host.content("B") == workshop.image("1.1.0").read_bytes()


def test_a_kernel_of_version_1_needs_a_place_too(tmp_path: Path, payload: Path) -> None:
    """update_engine's payload with a kernel is refused where there is no place for it, else left out."""
    host = Host(tmp_path, None, 8 * 1024 * 1024)
    keys, loose = {"a": (V1 / "key-a.pub.pem").read_bytes()}, {"policy": {"allow_legacy_payloads": True}}
    refused(host, V1 / "full-signed-kernel.bin", keys, ErrorCode.BOOT_FILE_NO_PLACE, **loose)
    done = host.install(V1 / "full-signed-kernel.bin", keys, skip_boot_files=True, **loose)
    assert done.files == frozenset()


Lie = Callable[[pb.DeltaArchiveManifest], object]
LIES: dict[str, tuple[Lie, ErrorCode]] = {
    "a root hash without a tree": (lambda m: m.partitions.remove(m.partitions[-1]), ErrorCode.SLOT_SET_INVALID),
    "a tree without a root hash": (lambda m: m.ClearField("root_hash"), ErrorCode.SLOT_SET_INVALID),
    "a root hash in capitals": (lambda m: setattr(m, "root_hash", "AB" * 32), ErrorCode.MANIFEST_PARSE),
    "a short root hash": (lambda m: setattr(m, "root_hash", "ab" * 20), ErrorCode.MANIFEST_PARSE),
    "an empty root hash": (lambda m: setattr(m, "root_hash", ""), ErrorCode.MANIFEST_PARSE),
    "an initrd alone": (lambda m: _add(m, "initrd"), ErrorCode.SLOT_SET_INVALID),
    "a UKI and a kernel": (lambda m: (_add(m, "uki"), _add(m, "kernel")), ErrorCode.SLOT_SET_INVALID),
    "a partition of no known name": (lambda m: _add(m, "modem"), ErrorCode.PARTITION_UNKNOWN),
    "no root": (lambda m: m.partitions.remove(m.partitions[0]), ErrorCode.PARTITION_UNKNOWN),
}


def _add(manifest: pb.DeltaArchiveManifest, name: str) -> None:
    part = manifest.partitions.add(partition_name=name)
    part.new_partition_info.size, part.new_partition_info.hash = BLOCK, sha256(bytes(BLOCK)).digest()
    part.operations.add(type=6).dst_extents.add(start_block=0, num_blocks=1)


@pytest.mark.parametrize("lie", LIES)
def test_a_set_that_makes_no_slot_is_refused(tmp_path: Path, host: Verified, workshop: Workshop, lie: str) -> None:
    """Signed or not: parts that contradict each other, or a malformed root hash, change nothing on the disk."""
    tiny = tmp_path / "tiny.img"
    tiny.write_bytes(bytes(4 * BLOCK))
    payload = payload_of(workshop, tmp_path, image=tiny, make_verity=True)
    change, code = LIES[lie]
    raw = payload.read_bytes()
    header = parse_header(raw[:HEADER_BYTES])
    manifest = pb.DeltaArchiveManifest.FromString(raw[header.header_size : header.metadata_size])
    data = raw[header.data_start :][: manifest.signatures_offset]
    change(manifest)
    used = sum(op.data_length for part in manifest.partitions for op in part.operations)
    manifest.signatures_offset = used
    payload.write_bytes(sealed(manifest, data[:used], load_private_keys(workshop.keys / "private.pem")))
    refused(host, payload, ours(workshop), code)


def test_the_hash_partition_has_the_slots_refusals(
    tmp_path: Path, host: Verified, workshop: Workshop, files: dict[str, Path], payload: Path
) -> None:
    """Too small, the running slot's own, or mounted through a loop device: the install is refused, nothing changes."""
    with pytest.MonkeyPatch.context() as patch:
        found = host.boot.verity_of(host.slot("A"))
        patch.setattr(host.boot, "verity_of", lambda _slot: found)
        refused(host, payload, ours(workshop), ErrorCode.TARGET_IS_RUNNING)
    (tmp_path / "small").mkdir()
    small = Verified(tmp_path / "small", workshop.image("1.0.0"), hash_bytes=64 * 1024)
    refused(small, payload, ours(workshop), ErrorCode.TARGET_TOO_SMALL)


def test_a_hash_partition_that_another_holds_is_busy(
    tmp_path: Path,
    host: Verified,
    workshop: Workshop,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    payload: Path,
) -> None:
    """A hash partition of its own that another installer has locked stops the install like a slot that it has."""
    other = tmp_path / "hashes"
    other.write_bytes(bytes(HASH_BYTES))
    a = host.boot.verity_of(host.slot("A"))
    monkeypatch.setattr(host.boot, "verity_of", lambda slot: a if slot.name == "A" else (other, 0, HASH_BYTES))
    with other.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(host, payload, ours(workshop), ErrorCode.TARGET_BUSY)
    done = host.install(payload, ours(workshop))
    assert done.root_hash
    assert other.read_bytes().startswith(b"verity")


def full_below(limits: dict[str, int]) -> Any:
    """Return an fstatvfs by which the file system with these files has so many bytes free."""
    honest = os.fstatvfs

    def told(fd: int) -> object:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        free = next((free for start, free in limits.items() if name.startswith(start)), None)
        return honest(fd) if free is None else SimpleNamespace(f_bavail=free, f_frsize=1)

    return told


def test_room_is_counted_before_anything_is_removed(
    host: Verified,
    workshop: Workshop,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    payload: Path,
) -> None:
    """What all boot files need together is compared with what is free and what the slot's stale files give back."""
    (entry := host.disk.with_name("entry.efi")).write_bytes(bytes(8192))  # an image of the boot loader's
    monkeypatch.setattr(host.boot, "stale_of", lambda _slot: (entry,))
    needed = sum(path.stat().st_size for path in files.values())
    stale = sum(path.stat().st_blocks * 512 for path in (entry, *host.files.glob("*-b")))
    assert stale > 0
    before = host.found()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", full_below(dict.fromkeys(("kernel", "initrd"), needed - stale - 1)))
        refused(host, payload, ours(workshop), ErrorCode.NO_SPACE)
    assert host.found() == before
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", full_below(dict.fromkeys(("kernel", "initrd"), needed - stale)))
        is_whole(host, workshop, files, host.install(payload, ours(workshop)))


def test_each_boot_file_has_a_bound(
    host: Verified,
    workshop: Workshop,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    payload: Path,
) -> None:
    """An initrd is bounded like a kernel: no slot's size does it."""
    monkeypatch.setattr("updated.install.slot_parts.LIMITS", replace(LIMITS, file_bytes=300_001))
    refused(host, payload, ours(workshop), ErrorCode.LIMIT_EXCEEDED)
    assert not list(host.files.glob("*.updated-new"))


@pytest.mark.parametrize("part", ["verity", "initrd"])
def test_a_medium_that_lies_about_a_part_is_found_out(
    host: Verified,
    workshop: Workshop,
    files: dict[str, Path],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    payload: Path,
) -> None:
    """A tree or file that comes back differently from the medium leaves no slot that boots, and no file in place."""
    honest = os.pwrite
    begin = host.boot.verity_of(host.slot("B"))
    assert begin

    def lie(fd: int, data: Any, offset: int) -> int:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        in_tree = part == "verity" and name == "disk.img" and offset in range(begin[1], begin[1] + begin[2])
        if in_tree or (part == "initrd" and name.startswith("initrd-b")):
            data = bytes(data[:-1]) + bytes([data[-1] ^ 1])
            if in_tree:  # a buffer that isn't aligned can't go past the page cache
                with host.disk.open("r+b") as disk:
                    return honest(disk.fileno(), data, offset)
        return honest(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", lie)
    with pytest.raises(RefusedError) as caught:
        host.install(payload, ours(workshop))
    wanted = ErrorCode.PARTITION_HASH_MISMATCH if part == "verity" else ErrorCode.FILE_HASH_MISMATCH
    assert caught.value.code is wanted
    assert not host.slot("B").bootable
    assert sorted(host.found()) == ["initrd-a", "kernel-a"]


def test_a_place_that_cannot_be_written_is_known_before(
    host: Verified,
    workshop: Workshop,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    payload: Path,
) -> None:
    """A read-only file system for the boot files stops the install while slot B can still boot."""
    honest = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(host.files)) and flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return honest(path, flags, *rest, **more)

    before = host.found()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(UpdateError) as caught:
            host.install(payload, ours(workshop))
    assert caught.value.code is ErrorCode.DOWNLOAD_WRITE
    assert (host.found(), host.slot("B").bootable) == (before, True)
