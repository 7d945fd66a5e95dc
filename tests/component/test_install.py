"""The pipeline on a disk in a file: real payloads into real slots, and what stays as it was when it fails."""

from __future__ import annotations

import lzma
import threading
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.bootloader import choose
from tests.support.disks import Bits, make_disk
from tests.support.releases import PRODUCT, SLOT_BYTES, Workshop
from updated.errors import ErrorCode, RefusedError, UpdateError
from updated.install.fetch import FileSource
from updated.install.medium import Target
from updated.install.pipeline import Installed, InstallRequest, Progress, install
from updated.payload.trust import TrustPolicy, load_keyring
from updated.slots.boot.gptprio import GptPrio
from updated.slots.layout import HostPaths, Slot

V1 = Path(__file__).parents[2] / "fixtures/payloads/crau-v1"
V2 = Path(__file__).parents[2] / "fixtures/payloads/crau-v2-aosp"
BOTH = {"USR-A": Bits(priority=2, successful=True), "USR-B": Bits(priority=1, successful=True)}


class Host:
    """A disk with two bootable slots, running from A."""

    def __init__(self, folder: Path, image: Path | None, slot_bytes: int) -> None:
        self.folder = folder
        self.disk = make_disk(folder / "disk.img", slot_bytes, {"USR-A": image} if image else {}, bits=BOTH)
        (folder / "mountinfo").write_text("")
        (folder / "cmdline").write_text("")
        self.paths = HostPaths(cmdline=folder / "cmdline", mountinfo=folder / "mountinfo", root=folder)
        running = choose(self.disk)
        assert running.label == "USR-A"
        self.boot = GptPrio(self.disk, booted_partuuids=(running.partuuid,))
        self.seen: list[Progress] = []

    def now(self) -> datetime:
        return datetime.now(UTC)

    def slot(self, name: str) -> Slot:
        return next(slot for slot in self.boot.slots() if slot.name == name)

    def content(self, name: str, size: int | None = None) -> bytes:
        slot = self.slot(name)
        with self.disk.open("rb") as disk:
            disk.seek(slot.offset)
            return disk.read(size or slot.size)

    def install(self, payload: Path, keys: dict[str, bytes], **changes: Any) -> Installed:
        source = changes.pop("source", None) or FileSource(payload)
        policy = {"product": PRODUCT, "channels": ("stable",), "rollback_floor": 0, **changes.pop("policy", {})}
        return install(
            InstallRequest(load_keyring(keys), TrustPolicy(**policy), datetime.now(UTC), **changes),
            source=source,
            boot=self.boot,
            host=self.paths,
            observe=self.seen.append,
            cancelled=threading.Event(),
        )


def key_a() -> dict[str, bytes]:
    return {"key-a": (V1 / "key-a.pub.pem").read_bytes()}


def image(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(lzma.decompress((V1 / f"{name}.img.xz").read_bytes()))
    return path


@pytest.fixture
def host(tmp_path: Path, workshop: Workshop) -> Host:
    return Host(tmp_path, workshop.image("1.0.0"), SLOT_BYTES)


def ours(workshop: Workshop) -> dict[str, bytes]:
    return {"ours": (workshop.keys / "public.pem").read_bytes()}


def payload_of(workshop: Workshop, folder: Path, version: str = "1.1.0", **changes: Any) -> Path:
    workshop.build(folder, version, **changes)
    return folder / f"{PRODUCT}-{version}.payload"


@pytest.mark.parametrize("major", [1, 2])
def test_release_lands_in_the_other_slot(tmp_path: Path, host: Host, workshop: Workshop, major: int) -> None:
    """After an install slot B is the image, un-bootable until it is armed, and slot A is what it was."""
    before = host.content("A")
    entry = host.slot("A")
    done = host.install(payload_of(workshop, tmp_path, major=major), ours(workshop))
    assert host.content("B") == workshop.image("1.1.0").read_bytes()
    assert (done.version, done.slot.name, done.key) == ("1.1.0", "B", "ours")
    assert not host.slot("B").bootable
    assert (host.content("A"), host.slot("A")) == (before, entry)
    assert [seen.phase for seen in host.seen if seen.phase != "downloading"][:1] == ["verifying"]


def test_update_engines_full_payload_with_its_kernel(tmp_path: Path) -> None:
    """update_engine's own full payload is installed, its kernel by rename to the configured path."""
    host = Host(tmp_path, None, 8 * 1024 * 1024)
    kernel = tmp_path / "vmlinuz-b"
    kernel.write_bytes(b"old kernel")
    host.install(
        V1 / "full-signed-kernel.bin",
        key_a(),
        policy={"allow_legacy_payloads": True},
        offer_version="2.0",
        file_targets={"kernel": kernel},
    )
    assert host.content("B") == lzma.decompress((V1 / "new.img.xz").read_bytes())
    assert kernel.read_bytes() == (V1 / "vmlinuz-new").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("vmlinuz*")) == ["vmlinuz-b"]


def test_update_engines_delta_from_the_running_slot(tmp_path: Path) -> None:
    """update_engine's in-place delta is applied to a copy of the running slot, which stays as it is."""
    host = Host(tmp_path, image(tmp_path, "old"), 8 * 1024 * 1024)
    host.install(V1 / "delta-signed.bin", key_a(), policy={"allow_legacy_payloads": True})
    assert host.content("B") == lzma.decompress((V1 / "new.img.xz").read_bytes())
    assert host.content("A") == lzma.decompress((V1 / "old.img.xz").read_bytes())


def test_delta_for_another_image_leaves_everything(tmp_path: Path) -> None:
    """A delta whose old image isn't the running one is refused while slot B can still boot."""
    host = Host(tmp_path, image(tmp_path, "new"), 8 * 1024 * 1024)
    refused(host, V1 / "delta-signed.bin", key_a(), ErrorCode.SOURCE_MISMATCH, policy={"allow_legacy_payloads": True})


def refused(host: Host, payload: Path, keys: dict[str, bytes], code: ErrorCode, **changes: Any) -> None:
    """See that an install is refused before anything has changed on the disk, also the other slot's bootability."""
    before = sha256(host.disk.read_bytes()).hexdigest()
    with pytest.raises(UpdateError) as caught:
        host.install(payload, keys, **changes)
    assert caught.value.code is code
    assert caught.value.hint
    assert sha256(host.disk.read_bytes()).hexdigest() == before


def test_legacy_payload_needs_to_be_allowed(tmp_path: Path) -> None:
    """A payload without an identity is refused unless the operator gave that protection up."""
    refused(Host(tmp_path, None, 8 * 1024 * 1024), V1 / "full-signed-kernel.bin", key_a(), ErrorCode.IDENTITY_MISSING)


def test_unsigned_payload_changes_nothing(tmp_path: Path) -> None:
    """AOSP's unsigned sample is refused, also when unsigned metadata would be tolerated."""
    host = Host(tmp_path, None, 8 * 1024 * 1024)
    refused(host, V2 / "full_payload.bin", key_a(), ErrorCode.METADATA_SIGNATURE_MISSING)
    loose = {"allow_unsigned_metadata": True, "allow_legacy_payloads": True}
    refused(host, V2 / "full_payload.bin", key_a(), ErrorCode.SIGNATURE_MISSING, policy=loose)


def test_flipped_manifest_changes_nothing(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """A version 2 payload with one bit of its manifest flipped is refused while slot B can still boot."""
    payload = payload_of(workshop, tmp_path)
    flip(payload, 100)
    refused(host, payload, ours(workshop), ErrorCode.METADATA_SIGNATURE_MISMATCH)


def flip(payload: Path, at: int) -> None:
    data = bytearray(payload.read_bytes())
    data[at] ^= 1
    payload.write_bytes(data)


@pytest.mark.parametrize("major", [1, 2])
@pytest.mark.parametrize("place", ["data", "signature"])
def test_flipped_data_leave_a_slot_that_cannot_boot(
    tmp_path: Path, host: Host, workshop: Workshop, major: int, place: str
) -> None:
    """A bit flipped in data or signature is found, slot B can't boot, and slot A is what it was."""
    payload = payload_of(workshop, tmp_path, major=major)
    size = payload.stat().st_size
    flip(payload, size // 2 if place == "data" else size - 50)
    before, entry = host.content("A"), host.slot("A")
    with pytest.raises(RefusedError) as caught:
        host.install(payload, ours(workshop))
    expected = ErrorCode.OPERATION_HASH_MISMATCH if place == "data" else ErrorCode.SIGNATURE_MISMATCH
    assert caught.value.code is expected
    assert not host.slot("B").bootable
    assert (host.content("A"), host.slot("A")) == (before, entry)
    assert choose(host.disk).label == "USR-A"


@pytest.mark.parametrize("part", [0.001, 0.3, 0.9999])
def test_truncated_payload(tmp_path: Path, host: Host, workshop: Workshop, part: float) -> None:
    """A payload that ends early is refused, wherever it ends."""
    payload = payload_of(workshop, tmp_path)
    data = payload.read_bytes()
    payload.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UpdateError) as caught:
        host.install(payload, ours(workshop))
    assert caught.value.code is ErrorCode.PAYLOAD_SIZE_MISMATCH
    assert choose(host.disk).label == "USR-A"


def test_overlong_payload(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """A byte too many is refused, though everything before it is right."""
    payload = payload_of(workshop, tmp_path)
    payload.write_bytes(payload.read_bytes() + b"\0")
    with pytest.raises(UpdateError) as caught:
        host.install(payload, ours(workshop))
    assert caught.value.code is ErrorCode.PAYLOAD_SIZE_MISMATCH
    assert not host.slot("B").bootable


def test_image_larger_than_the_slot(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """An image that doesn't fit is refused while slot B can still boot."""
    large = tmp_path / "large.img"
    large.write_bytes(bytes(SLOT_BYTES + 4096))
    refused(host, payload_of(workshop, tmp_path, image=large), ours(workshop), ErrorCode.TARGET_TOO_SMALL)


def test_target_that_another_installer_holds(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """Of two installs at once the second is refused, and the first isn't disturbed."""
    payload = payload_of(workshop, tmp_path)
    codes: list[ErrorCode] = []

    def second(_seen: Progress) -> None:
        if not codes:
            with pytest.raises(RefusedError) as caught:
                host.install(payload, ours(workshop))
            codes.append(caught.value.code)

    install(
        InstallRequest(load_keyring(ours(workshop)), TrustPolicy(PRODUCT, ("stable",), 0), datetime.now(UTC)),
        source=FileSource(payload),
        boot=host.boot,
        host=host.paths,
        observe=second,
        cancelled=threading.Event(),
    )
    assert codes == [ErrorCode.TARGET_BUSY]
    assert host.content("B") == workshop.image("1.1.0").read_bytes()


def test_cancelled_install_leaves_a_slot_that_cannot_boot(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """An install that is cancelled ends with its error at the next piece."""
    cancelled = threading.Event()
    with pytest.raises(UpdateError) as caught:
        install(
            InstallRequest(load_keyring(ours(workshop)), TrustPolicy(PRODUCT, ("stable",), 0), datetime.now(UTC)),
            source=FileSource(payload_of(workshop, tmp_path, compression="none")),
            boot=host.boot,
            host=host.paths,
            observe=lambda _seen: cancelled.set(),
            cancelled=cancelled,
        )
    assert caught.value.code is ErrorCode.CANCELLED
    assert choose(host.disk).label == "USR-A"


def test_medium_that_reads_back_something_else(
    tmp_path: Path, host: Host, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A medium that lies about one byte is found by the read-back, and the slot stays un-bootable."""
    honest = Target.read_back

    def lying(self: Target, offset: int, into: memoryview) -> None:
        honest(self, offset, into)
        into[len(into) // 2] ^= 1

    monkeypatch.setattr(Target, "read_back", lying)
    with pytest.raises(RefusedError) as caught:
        host.install(payload_of(workshop, tmp_path), ours(workshop))
    assert caught.value.code is ErrorCode.PARTITION_HASH_MISMATCH
    assert not host.slot("B").bootable


def test_payload_hash_of_the_offer_is_checked(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """A payload that isn't the one that the server named is refused, though it is rightly signed."""
    with pytest.raises(RefusedError) as caught:
        host.install(payload_of(workshop, tmp_path), ours(workshop), offer_sha256=bytes(32))
    assert caught.value.code is ErrorCode.PAYLOAD_HASH_MISMATCH
    assert not host.slot("B").bootable


@pytest.mark.parametrize(
    ("offered", "code"), [(True, ErrorCode.PAYLOAD_HASH_MISMATCH), (False, ErrorCode.SIGNATURE_MISMATCH)]
)
def test_flipped_payload_signature(
    tmp_path: Path, host: Host, workshop: Workshop, offered: bool, code: ErrorCode
) -> None:
    """A payload that is changed in its last byte isn't installed: the offer's hash tells, or the signature itself."""
    payload = payload_of(workshop, tmp_path)
    right = payload.read_bytes()
    payload.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(RefusedError) as caught:
        host.install(payload, ours(workshop), offer_sha256=sha256(right).digest() if offered else None)
    assert caught.value.code is code
    assert not host.slot("B").bootable


@pytest.mark.parametrize("major", [1, 2])
def test_what_the_offer_names_is_installed(tmp_path: Path, host: Host, workshop: Workshop, major: int) -> None:
    """With the right hash and size in the offer both versions are proven, by the key that signed them."""
    payload = payload_of(workshop, tmp_path, major=major)
    content = payload.read_bytes()
    done = host.install(payload, ours(workshop), offer_sha256=sha256(content).digest(), offer_size=len(content))
    assert (done.key, done.version) == ("ours", "1.1.0")


def test_v1_with_a_wrong_signature_is_refused_whatever_the_offer_says(
    tmp_path: Path, host: Host, workshop: Workshop
) -> None:
    """A server that names the hash of a version 1 payload which it changed gains nothing."""
    payload = payload_of(workshop, tmp_path, major=1)
    right = payload.read_bytes()
    changed = right[:-1] + bytes([right[-1] ^ 1])
    payload.write_bytes(changed)
    with pytest.raises(RefusedError) as caught:
        host.install(payload, ours(workshop), offer_sha256=sha256(changed).digest())
    assert caught.value.code is ErrorCode.SIGNATURE_MISMATCH
    assert not host.slot("B").bootable
