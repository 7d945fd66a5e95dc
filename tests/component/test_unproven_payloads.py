"""Payloads that nobody signed, and what a lying answer leaves behind: they cost a host no fall-back and no release."""

from __future__ import annotations

import bz2
import json
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.component.test_install import Host, ours, payload_of
from tests.support.releases import PRODUCT, SLOT_BYTES, Workshop
from updated.config import load
from updated.errors import ErrorCode, LocalError, RefusedError, RemoteError, UpdateError
from updated.install import kept
from updated.install.checkpoint import Journal
from updated.install.fetch import FileSource, Source
from updated.install.pipeline import Installed, InstallRequest, install
from updated.install.ranges import Span
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import V1, Header, encode_header
from updated.payload.trust import TrustPolicy, load_keyring

FALL_BACK = bytes(SLOT_BYTES)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host whose other slot holds a release that proved itself."""
    unlike = tmp_path / "unlike.img"
    unlike.write_bytes(b"\xa5" * SLOT_BYTES)
    return Host(tmp_path, unlike, SLOT_BYTES)


def put(host: Host, workshop: Workshop, source: Source, folder: Path, **changes: Any) -> Installed:
    """Install with a journal, as the agent does."""
    policy = TrustPolicy(PRODUCT, ("stable",), 0, **changes.pop("policy", {}))
    return install(
        InstallRequest(load_keyring(ours(workshop)), policy, datetime.now(UTC), journal=Journal(folder), **changes),
        source=source, boot=host.boot, host=host.paths, observe=host.seen.append, cancelled=threading.Event(),
    )  # fmt: skip


def unsigned(fill: Callable[[pb.DeltaArchiveManifest], bytes], *, size: int) -> bytes:
    """Return a payload of version 1 with an identity that its writer made up, and a signature that is none."""
    manifest = pb.DeltaArchiveManifest(block_size=4096)
    manifest.product, manifest.version, manifest.rollback_index = PRODUCT, "9.9.9", 2**64 - 1
    manifest.channels.append("stable")
    data = fill(manifest)
    manifest.new_partition_info.size = size
    manifest.new_partition_info.hash = manifest.new_partition_info.hash or bytes(32)
    signatures = pb.Signatures()
    signatures.signatures.add(version=2, data=b"\1" * 256)
    blob = signatures.SerializeToString()
    manifest.signatures_offset, manifest.signatures_size = len(data), len(blob)
    raw = manifest.SerializeToString()
    return encode_header(Header(V1, len(raw))) + raw + data + blob


def replace(manifest: pb.DeltaArchiveManifest) -> bytes:
    """Fill the slot with the attacker's own bytes."""
    data = b"\xee" * SLOT_BYTES
    operation = manifest.partition_operations.add(type=0, data_offset=0, data_length=len(data))
    operation.data_sha256_hash = sha256(data).digest()
    operation.dst_extents.add(start_block=0, num_blocks=SLOT_BYTES // 4096)
    manifest.new_partition_info.hash = sha256(data).digest()
    return data


def assert_untouched(host: Host) -> None:
    """See that the fall-back slot boots as before, and has every byte that it had."""
    slot = host.slot("B")
    assert slot.bootable
    assert slot.successful
    assert host.content("B") == FALL_BACK


@pytest.mark.parametrize("offered", [True, False])
def test_payload_that_nobody_signed_doesnt_cost_the_fall_back(
    tmp_path: Path, host: Host, workshop: Workshop, offered: bool
) -> None:
    """A version 1 payload that turns out unsigned at its end was written nowhere, whatever the answer said."""
    bad = unsigned(replace, size=SLOT_BYTES)
    path = tmp_path / "bad.payload"
    path.write_bytes(bad)
    hints = {"offer_sha256": sha256(bad).digest(), "offer_size": len(bad)} if offered else {}
    with pytest.raises(RefusedError) as caught:
        put(host, workshop, FileSource(path), tmp_path / "journal", **hints)
    assert caught.value.code is ErrorCode.SIGNATURE_MISMATCH
    assert_untouched(host)
    put(host, workshop, FileSource(payload_of(workshop, tmp_path, major=1)), tmp_path / "journal")
    assert host.content("B") == workshop.image("1.1.0").read_bytes()


def slow_patch(count: int) -> bytes:
    """Return a BSDIFF40 patch of one step per byte, which takes minutes to apply and kilobytes to send."""
    steps = struct.pack("<QQQ", 1, 0, 0) * count
    control, different = bz2.compress(steps, 9), bz2.compress(b"\1" * count)
    return (
        b"BSDIFF40" + struct.pack("<QQQ", len(control), len(different), count) + control + different + bz2.compress(b"")
    )


def test_patch_that_nobody_signed_is_not_decoded(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """Work that an unsigned payload asks for isn't begun: its signature is looked at before its first operation."""
    running = host.content("A")

    def patch(manifest: pb.DeltaArchiveManifest) -> bytes:
        data = slow_patch(SLOT_BYTES)
        operation = manifest.partition_operations.add(
            type=3, data_offset=0, data_length=len(data), src_length=SLOT_BYTES, dst_length=SLOT_BYTES
        )
        operation.data_sha256_hash = sha256(data).digest()
        operation.src_extents.add(start_block=0, num_blocks=SLOT_BYTES // 4096)
        operation.dst_extents.add(start_block=0, num_blocks=SLOT_BYTES // 4096)
        manifest.old_partition_info.size, manifest.old_partition_info.hash = SLOT_BYTES, sha256(running).digest()
        return data

    path = tmp_path / "slow.payload"
    path.write_bytes(unsigned(patch, size=SLOT_BYTES))
    with pytest.raises(RefusedError) as caught:
        put(host, workshop, FileSource(path), tmp_path / "journal")
    assert caught.value.code is ErrorCode.SIGNATURE_MISMATCH
    assert_untouched(host)


def test_without_room_to_keep_it_the_fall_back_is_worth_more(
    tmp_path: Path, host: Host, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a version 1 payload can't be kept until it is believed, it isn't installed over a proven release."""
    monkeypatch.setattr(kept, "SHARE", 2**60)
    payload = payload_of(workshop, tmp_path, major=1)
    with pytest.raises(LocalError) as caught:
        put(host, workshop, FileSource(payload), tmp_path / "journal")
    assert caught.value.code is ErrorCode.NO_SPACE
    assert_untouched(host)
    host.boot.unmark(host.slot("B"))
    put(host, workshop, FileSource(payload), tmp_path / "journal")
    assert host.content("B") == workshop.image("1.1.0").read_bytes()


def test_version_1_is_refused_where_it_is_off(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """With trust.allow_version_1 off a signed payload of version 1 is refused by its head, and version 2 is taken."""
    old = FileSource(payload_of(workshop, tmp_path, major=1))
    with pytest.raises(RefusedError) as caught:
        put(host, workshop, old, tmp_path / "journal", policy={"allow_version_1": False})
    assert caught.value.code is ErrorCode.VERSION_1_OFF
    assert_untouched(host)
    new = FileSource(payload_of(workshop, tmp_path / "new"))
    put(host, workshop, new, tmp_path / "journal", policy={"allow_version_1": False})


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", False),
        ("[trust]\nallow_version_1 = true\n", True),
        ("[trust]\nallow_legacy_payloads = true\n", True),
        ("[trust]\nallow_legacy_payloads = true\nallow_version_1 = false\n", False),
    ],
)
def test_version_1_is_off_unless_asked_for(tmp_path: Path, text: str, allowed: bool) -> None:
    """Version 1 is off by default, and on where a legacy setting asks for it or its own says so."""
    (tmp_path / "updated.toml").write_text(text)
    assert load(tmp_path / "updated.toml", {}).settings.trust.allow_version_1 == allowed


def test_version_1_is_on_where_update_conf_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that brings update_engine's own settings takes what its servers have."""
    conf = tmp_path / "update.conf"
    conf.write_text("GROUP=stable\n")
    monkeypatch.setattr("updated.config.UPDATE_CONF", (conf,))
    assert load(None, {}).settings.trust.allow_version_1


class Cut:
    """A source that breaks once so many bytes came."""

    def __init__(self, path: Path, most: int) -> None:
        self._inner, self._left = FileSource(path), most

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        for piece in self._inner.read(spans):
            yield piece[: self._left]
            self._left -= min(len(piece), self._left)
            if not self._left:
                raise RemoteError(ErrorCode.DOWNLOAD_TRANSFER, "cut", hint="none")


@pytest.mark.parametrize("index", [0, 1])
def test_journal_that_a_lie_began_makes_no_true_release_be_refused(
    tmp_path: Path, host: Host, workshop: Workshop, index: int
) -> None:
    """Another signed release that was once offered under this one's hash, and cut, is in no true offer's way."""
    old = payload_of(workshop, tmp_path / "old", "1.0.1", rollback_index=index)
    new = payload_of(workshop, tmp_path / "new", "1.1.0", rollback_index=1)
    offer_sha256 = sha256(new.read_bytes()).digest()
    lie = {"offer_sha256": offer_sha256, "offer_size": old.stat().st_size}
    with pytest.raises(UpdateError, match="cut"):
        put(host, workshop, Cut(old, old.stat().st_size // 2), tmp_path / "journal", **lie)
    claims = json.loads((tmp_path / "journal/checkpoint.json").read_text())
    assert claims["release"] == offer_sha256.hex(), "the lie left nothing, so this test shows nothing"
    true = {"offer_sha256": offer_sha256, "offer_size": new.stat().st_size}
    put(host, workshop, FileSource(new), tmp_path / "journal", **true)
    assert host.content("B") == workshop.image("1.1.0").read_bytes()
