"""Payloads of version 1, of which only the whole is signed: after a cut their bytes come from what was kept."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.component.test_install import V1, Host, image, key_a, ours, payload_of
from tests.component.test_reuse import Counting
from tests.support.releases import PRODUCT, SLOT_BYTES, Workshop
from updated.errors import ErrorCode, LocalError, RefusedError, RemoteError
from updated.install import kept
from updated.install.checkpoint import CHECKPOINT, PAYLOAD, Journal
from updated.install.crew import Batch, Crew
from updated.install.fetch import FileSource, Source
from updated.install.pipeline import Installed, InstallRequest, install
from updated.payload.trust import TrustPolicy, load_keyring

EVERY_BYTES = 64 * 1024


def put(host: Host, keys: dict[str, bytes], source: Source, journal: Journal) -> Installed:
    """Install with a journal."""
    return install(
        InstallRequest(
            load_keyring(keys),
            TrustPolicy(PRODUCT, ("stable",), 0, allow_legacy_payloads=True),
            host.now(),
            journal=journal,
        ),
        source=source,
        boot=host.boot,
        host=host.paths,
        observe=host.seen.append,
        cancelled=threading.Event(),
    )


class Cut:
    """A host with a part of an install of version 1."""

    def __init__(self, folder: Path, workshop: Workshop, share: float = 0.4, *, proven: bool = True) -> None:
        unlike = folder / "unlike.img"
        unlike.write_bytes(b"\xa5" * SLOT_BYTES)
        self.host, self.keys = Host(folder, unlike, SLOT_BYTES), ours(workshop)
        self.payload = payload_of(workshop, folder, major=1)
        self.size = self.payload.stat().st_size
        self.folder = folder / "journal"
        self.image = workshop.image("1.1.0").read_bytes()
        if not proven:
            self.host.boot.unmark(self.host.slot("B"))
        with pytest.raises(LocalError, match="cable"):
            self.put(Counting(self.payload, end_after=int(self.size * share)))
        assert self.host.slot("B").bootable == proven  # nothing that nobody has proven yet costs what is there

    def put(self, source: Source) -> Installed:
        return put(self.host, self.keys, source, Journal(self.folder, every_bytes=EVERY_BYTES))

    def again(self) -> int:
        """Install again; return how many bytes were fetched."""
        source = Counting(self.payload)
        done = self.put(source)
        assert self.host.content("B") == self.image
        assert done.bytes_done + done.bytes_reused == self.size
        return source.count


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_interrupted_install_of_version_1_goes_on(tmp_path: Path, workshop: Workshop, share: float) -> None:
    """After a cut at any byte of a payload of version 1 what has come isn't asked for again."""
    cut = Cut(tmp_path, workshop, share)
    metadata_and_piece = 32 * 1024
    assert cut.again() <= cut.size * (1 - share) + metadata_and_piece


def test_install_that_ended_before_it_was_armed_fetches_nothing(tmp_path: Path, workshop: Workshop) -> None:
    """With all of it kept, a restart needs no byte but the metadata's."""
    cut = Cut(tmp_path, workshop)
    cut.again()
    assert cut.again() < cut.size / 20


def test_killed_agent_goes_on_from_its_last_checkpoint(tmp_path: Path, workshop: Workshop) -> None:
    """What came after the last checkpoint is cut off and fetched again: only what was flushed is claimed."""
    cut = Cut(tmp_path, workshop)
    change(cut.folder, kept=EVERY_BYTES)
    assert cut.size * 0.5 < cut.again() <= cut.size - EVERY_BYTES


def test_delta_that_changes_its_slot_in_place_goes_on(tmp_path: Path) -> None:
    """An in-place delta begins again with a fresh copy of the running slot, and with the bytes that were kept."""
    host, payload = Host(tmp_path, image(tmp_path, "old"), 8 * 1024 * 1024), V1 / "delta-signed.bin"
    size, journal = payload.stat().st_size, Journal(tmp_path / "journal", every_bytes=4096)
    with pytest.raises(LocalError, match="cable"):
        put(host, key_a(), Counting(payload, end_after=size * 2 // 3), journal)
    source = Counting(payload)
    put(host, key_a(), source, journal)
    assert host.content("B") == image(tmp_path, "new").read_bytes()
    assert source.count < size * 2 // 3


LIES: dict[str, Callable[[Path], None]] = {
    "a byte that was changed": lambda folder: flip(folder / PAYLOAD, 5000),
    "the first byte": lambda folder: flip(folder / PAYLOAD, 0),
    "fewer bytes than are claimed": lambda folder: (folder / PAYLOAD).write_bytes(b"few") and None,
    "no file": lambda folder: (folder / PAYLOAD).unlink(),
    "a claim below zero": lambda folder: change(folder, kept=-1),
    "a claim that is no number": lambda folder: change(folder, kept="all"),
}


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def change(folder: Path, **fields: object) -> None:
    claims = json.loads((folder / CHECKPOINT).read_text())
    (folder / CHECKPOINT).write_text(json.dumps({**claims, **fields}))


@pytest.mark.parametrize("lie", LIES)
def test_kept_bytes_that_lie_cost_only_bytes(tmp_path: Path, workshop: Workshop, lie: str) -> None:
    """What was kept is believed as little as a mirror: wrong bytes come out, and all is fetched once more."""
    cut = Cut(tmp_path, workshop)
    LIES[lie](cut.folder)
    assert cut.again() >= cut.size * 0.6


def test_answer_that_is_too_long_spoils_no_later_try(tmp_path: Path, workshop: Workshop) -> None:
    """What a server sends behind the payload's end isn't kept: the next try needs no byte of an honest one."""
    cut = Cut(tmp_path, workshop)
    longer = tmp_path / "longer.payload"
    longer.write_bytes(cut.payload.read_bytes() + b"x" * 5000)
    with pytest.raises(RemoteError) as caught:
        cut.put(FileSource(longer))
    assert caught.value.code is ErrorCode.PAYLOAD_SIZE_MISMATCH
    assert cut.again() < cut.size / 20


def test_more_was_kept_than_the_payload_has(tmp_path: Path, workshop: Workshop) -> None:
    """Bytes behind the end that an earlier version kept don't refuse the payload for good: all is fetched once more."""
    cut = Cut(tmp_path, workshop)
    cut.again()
    with (cut.folder / PAYLOAD).open("ab") as file:
        file.write(b"x" * 5000)
        change(cut.folder, kept=file.tell())
    assert cut.again() > cut.size * 0.9


def test_link_in_the_place_of_the_kept_bytes_is_not_followed(tmp_path: Path, workshop: Workshop) -> None:
    """Who can put a link there gets nothing overwritten by it."""
    cut = Cut(tmp_path, workshop, proven=False)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious" * 20_000)
    (cut.folder / PAYLOAD).unlink()
    (cut.folder / PAYLOAD).symlink_to(precious)
    cut.again()
    assert precious.read_bytes() == b"precious" * 20_000


def test_payload_that_is_refused_leaves_nothing(tmp_path: Path, workshop: Workshop) -> None:
    """The bytes of a payload whose signature doesn't fit aren't kept for the next try."""
    cut = Cut(tmp_path, workshop)
    bad = tmp_path / "bad.payload"
    bad.write_bytes(cut.payload.read_bytes()[:-3] + b"bad")
    source = Counting(bad)
    with pytest.raises(RefusedError) as caught:
        cut.put(source)
    assert caught.value.code == ErrorCode.SIGNATURE_MISMATCH
    assert list(cut.folder.iterdir()) == []
    assert cut.host.slot("B").bootable
    assert cut.host.content("B") == bytes(SLOT_BYTES)


def test_without_ample_room_nothing_is_kept(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state directory that is nearly full is left alone: the install goes on, and begins anew after a cut."""
    monkeypatch.setattr(kept, "SHARE", 2**60)
    cut = Cut(tmp_path, workshop, proven=False)
    assert not (cut.folder / PAYLOAD).exists()
    assert cut.again() > cut.size * 0.9


def test_payload_whose_metadata_are_signed_is_not_kept(tmp_path: Path, workshop: Workshop) -> None:
    """Of version 2 the slot itself is what was fetched: the same bytes aren't written twice."""
    host = Host(tmp_path, None, SLOT_BYTES)
    journal = Journal(tmp_path / "journal", every_bytes=EVERY_BYTES)
    put(host, ours(workshop), FileSource(payload_of(workshop, tmp_path)), journal)
    assert not journal.payload.exists()


def test_delta_that_changes_its_slot_in_place_goes_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch may read what the one before it wrote, so it isn't begun until that is done."""
    monkeypatch.setattr("updated.install.carry.BATCH_BYTES", 1)
    under_way, most, carry_out = [0], [0], Crew._carry_out

    def counted(self: Crew, batch: Batch) -> None:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.01)  # so that another one would be seen beside it
        carry_out(self, batch)
        under_way[0] -= 1

    monkeypatch.setattr(Crew, "_carry_out", counted)
    host = Host(tmp_path, image(tmp_path, "old"), 8 * 1024 * 1024)
    put(host, key_a(), FileSource(V1 / "delta-signed.bin"), Journal(tmp_path / "journal"))
    assert host.content("B") == image(tmp_path, "new").read_bytes()
    assert most == [1]
