"""Small downloads and resumed installs: what a host has isn't fetched, and what it has wrongly does no harm."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.component.test_install import Host, ours, payload_of
from tests.support.lying_server import Lie, LyingServer
from tests.support.processes import wait_for
from tests.support.releases import PRODUCT, SLOT_BYTES, Workshop
from updated.errors import ErrorCode, LocalError, UpdateError
from updated.install.checkpoint import CHECKPOINT, METADATA, Journal
from updated.install.fetch import FileSource, HttpSource, Source, make_http
from updated.install.medium import Target
from updated.install.packages import PackagePlan
from updated.install.pipeline import Installed, InstallRequest, Progress, install
from updated.install.ranges import Span
from updated.payload.index import HEAD, KIND
from updated.payload.trust import TrustPolicy, load_keyring

SLACK = 80 * 1024  # bytes of progress that may not have been told yet


class Counting:
    """A source that counts the bytes it gives, and may end early or lie."""

    def __init__(self, path: Path, end_after: int | None = None) -> None:
        self._inner, self.count, self._end_after = FileSource(path), 0, end_after

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        for piece in self._inner.read(spans):
            for at in range(0, len(piece), 4096):
                part = piece[at : at + 4096]
                if self._end_after is not None and self.count + len(part) > self._end_after:
                    raise LocalError(ErrorCode.DOWNLOAD_TRANSFER, "the cable is cut", hint="Mend it.")
                self.count += len(part)
                yield part


class Held:
    """A source that sends nothing of the operations until so many bytes need not be fetched."""

    def __init__(self, path: Path, host: Host, reused: int) -> None:
        self._inner, self._host, self._reused = FileSource(path), host, reused

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        if self._host.seen:
            wait_for(lambda: self._host.seen[-1].bytes_reused >= self._reused or None, "what is here was put together")
        yield from self._inner.read(spans)


class Silent:
    """A source that sends nothing of the operations, until the install is cancelled."""

    def __init__(self, path: Path, host: Host, cancelled: threading.Event) -> None:
        self._inner, self._host, self._cancelled = FileSource(path), host, cancelled

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        if self._host.seen:
            assert self._cancelled.wait(60)
            raise UpdateError(ErrorCode.CANCELLED, "the install was cancelled", hint="Start it again.")
        yield from self._inner.read(spans)


def put(
    host: Host,
    workshop: Workshop,
    source: Source,
    folder: Path,
    journal: Journal | None = None,
    cancelled: threading.Event | None = None,
) -> Installed:
    """Install with everything that saves downloads; `cancelled` is set when the first chunk is put together."""

    def observe(progress: Progress) -> None:
        host.seen.append(progress)
        if cancelled is not None and progress.bytes_reused:
            cancelled.set()

    return install(
        InstallRequest(
            load_keyring(ours(workshop)),
            TrustPolicy(PRODUCT, ("stable",), 0),
            host.now(),
            packages=PackagePlan(lambda name, _size: FileSource(folder / name)),
            journal=journal,
        ),
        source=source,
        boot=host.boot,
        host=host.paths,
        observe=observe,
        cancelled=cancelled or threading.Event(),
    )


@pytest.fixture
def host(tmp_path: Path, workshop: Workshop) -> Host:
    return Host(tmp_path, workshop.image("1.0.0"), SLOT_BYTES)


def test_only_what_is_lacking_is_fetched(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """Of a full payload a host fetches the chunks that it can't put together, and status says how much that saved."""
    payload = payload_of(workshop, tmp_path)
    source = Counting(payload)
    done = put(host, workshop, source, tmp_path)
    assert host.content("B") == workshop.image("1.1.0").read_bytes()
    assert source.count == done.bytes_done < payload.stat().st_size // 2
    assert done.bytes_done + done.bytes_reused == payload.stat().st_size
    assert max(seen.bytes_reused for seen in host.seen) == pytest.approx(done.bytes_reused, abs=2000)


def test_ranges_come_in_few_requests(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """Over HTTP the lacking chunks are asked for in ranges, many in a request."""
    payload = payload_of(workshop, tmp_path)
    with LyingServer(payload.read_bytes()) as server, make_http() as http:
        source = HttpSource([server.url], http=http, expected_size=payload.stat().st_size)
        done = put(host, workshop, source, tmp_path)
        assert len(server.requests) <= 4
        assert done.bytes_reused > 0
    assert host.content("B") == workshop.image("1.1.0").read_bytes()


def test_server_without_ranges_sends_the_whole_payload(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """A server that knows no ranges still updates a host that could do with less."""
    payload = payload_of(workshop, tmp_path)
    with LyingServer(payload.read_bytes(), lambda _n: Lie(ignore_range=True)) as server, make_http() as http:
        put(host, workshop, HttpSource([server.url], http=http, expected_size=payload.stat().st_size), tmp_path)
    assert host.content("B") == workshop.image("1.1.0").read_bytes()


def host_whose_target_is_of_use(folder: Path, workshop: Workshop) -> Host:
    """Return one that runs something else, and whose target holds the new image, shifted by 8 MiB towards the end."""
    unlike = folder / "unlike.img"
    unlike.write_bytes(b"\xa5" * SLOT_BYTES)
    host = Host(folder, unlike, SLOT_BYTES)
    with host.disk.open("r+b") as disk:
        disk.seek(host.slot("B").offset + SLOT_BYTES // 2)
        disk.write(workshop.image("1.1.0").read_bytes()[: SLOT_BYTES // 2])
    return host


def test_what_the_target_holds_is_used_too(tmp_path: Path, workshop: Workshop) -> None:
    """Blocks that only the slot to be overwritten has are read before they are overwritten."""
    host = host_whose_target_is_of_use(tmp_path, workshop)
    payload = payload_of(workshop, tmp_path)
    done = put(host, workshop, Counting(payload), tmp_path)
    assert host.content("B") == workshop.image("1.1.0").read_bytes()
    assert done.bytes_reused > payload.stat().st_size // 2


@pytest.mark.parametrize("seed", ["running", "target"])
def test_what_is_here_is_put_together_while_the_line_stands_still(
    tmp_path: Path, workshop: Workshop, seed: str
) -> None:
    """Not one byte need have come, from whichever slot it is made, and nothing is fetched for it that needn't be."""
    payload, image = payload_of(workshop, tmp_path), workshop.image("1.1.0").read_bytes()
    seen = []
    for held in (False, True):
        folder = tmp_path / f"held-{held}"
        folder.mkdir()
        if seed == "target":
            host = host_whose_target_is_of_use(folder, workshop)
        else:
            host = Host(folder, workshop.image("1.0.0"), SLOT_BYTES)
        source = Held(payload, host, seen[0].bytes_reused - SLACK) if held else FileSource(payload)
        seen.append(put(host, workshop, source, tmp_path))
        assert host.content("B") == image
    assert seen[0].bytes_reused == seen[1].bytes_reused > payload.stat().st_size // 2


def test_cancel_is_noticed_while_the_line_stands_still(
    tmp_path: Path, host: Host, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stops the daemon doesn't wait until everything that needs no line is done."""
    payload, cancelled = payload_of(workshop, tmp_path), threading.Event()
    monkeypatch.setattr("updated.install.carry.BATCH_BYTES", 64 * 1024)
    with pytest.raises(UpdateError) as caught:
        put(host, workshop, Silent(payload, host, cancelled), tmp_path, cancelled=cancelled)
    assert caught.value.code is ErrorCode.CANCELLED
    stopped = host.seen[-1].bytes_reused
    done = put(host, workshop, FileSource(payload), tmp_path)
    assert stopped < done.bytes_reused // 2


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    "another magic": lambda raw: b"XPIU" + raw[4:],
    "cut": lambda raw: raw[:-1],
    "empty": lambda _raw: b"",
}


@pytest.mark.parametrize("how", SPOILS)
def test_index_that_is_not_what_was_signed_is_not_used(
    tmp_path: Path, host: Host, workshop: Workshop, how: str
) -> None:
    """A spoiled index, or none, costs the whole download and nothing else."""
    payload = payload_of(workshop, tmp_path)
    index = payload.with_suffix(".index")
    index.write_bytes(SPOILS[how](index.read_bytes()))
    try:
        done = put(host, workshop, FileSource(payload), tmp_path)
    except UpdateError as error:
        raise AssertionError(f"the install failed: {error}") from error
    assert done.bytes_reused == 0
    assert host.content("B") == workshop.image("1.1.0").read_bytes()


def test_seed_that_lies_costs_only_bytes(
    tmp_path: Path, host: Host, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks whose short hash fits and whose content doesn't are noticed by the chunk's digest, and fetched."""
    monkeypatch.setattr("updated.install.reuse.block_hash", lambda block: bytes(block[:5]))
    monkeypatch.setattr("updated.payload.index.block_hash", lambda block: bytes(block[:5]))
    payload = payload_of(workshop, tmp_path)
    put(host, workshop, FileSource(payload), tmp_path)
    assert host.content("B") == workshop.image("1.1.0").read_bytes()


def test_running_slot_that_cannot_be_read_costs_only_bytes(
    tmp_path: Path, host: Host, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector in the running slot doesn't keep a host from its update."""
    honest = Target.read

    def failing(self: Target, offset: int, length: int) -> bytes:
        if "slot A" in self.name and offset >= SLOT_BYTES // 8:
            raise LocalError(ErrorCode.READ_BACK, "bad sector", hint="See dmesg.")
        return honest(self, offset, length)

    payload = payload_of(workshop, tmp_path)
    monkeypatch.setattr(Target, "read", failing)
    done = put(host, workshop, FileSource(payload), tmp_path)
    monkeypatch.undo()
    assert host.content("B") == workshop.image("1.1.0").read_bytes()
    assert done.bytes_done > 0


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_interrupted_install_goes_on(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, share: float, indexed: bool
) -> None:
    """After a cut at any byte the next install asks only for what isn't there, with an index or by checkpoints."""
    unlike = tmp_path / "unlike.img"
    unlike.write_bytes(b"\xa5" * SLOT_BYTES)
    host = Host(tmp_path, unlike, SLOT_BYTES)
    payload = payload_of(workshop, tmp_path)
    size = payload.stat().st_size
    if not indexed:
        payload.with_suffix(".index").unlink()
    monkeypatch.setattr("updated.install.carry.BATCH_BYTES", 64 * 1024)
    journal = Journal(tmp_path / "journal", every_bytes=256 * 1024)
    folder = tmp_path if indexed else tmp_path / "nowhere"
    with pytest.raises(LocalError, match="cable"):
        put(host, workshop, Counting(payload, end_after=int(size * share)), folder, journal)
    assert not host.slot("B").bootable
    again = Counting(payload)
    done = put(host, workshop, again, folder, Journal(tmp_path / "journal"))
    assert host.content("B") == workshop.image("1.1.0").read_bytes()
    kept = Journal(tmp_path / "journal").read()
    assert kept is not None
    small = 80_000  # what was in one piece with the cut, and the metadata
    assert again.count == done.bytes_done <= size * (1 - share) + small
    assert done.bytes_reused >= size * share - small


LIES: dict[str, Callable[[Path], None]] = {
    "more than is there": lambda folder: _change(folder, operations=150),
    "no number": lambda folder: _change(folder, operations="all"),
    "another slot": lambda folder: _change(folder, partuuid="another"),
    "brackets without an end": lambda folder: (folder / CHECKPOINT).write_text("[" * 4096) and None,
    "no JSON": lambda folder: (folder / CHECKPOINT).write_text("{") and None,
    "spoiled metadata": lambda folder: (folder / METADATA).write_bytes(b"CrAU" + bytes(100)) and None,
}


def _change(folder: Path, **fields: Any) -> None:
    claims = json.loads((folder / CHECKPOINT).read_text())
    (folder / CHECKPOINT).write_text(json.dumps({**claims, **fields}))


@pytest.mark.parametrize("lie", LIES)
def test_checkpoint_that_lies_costs_only_bytes(tmp_path: Path, workshop: Workshop, lie: str) -> None:
    """Nothing in the journal is believed: the read-back finds what isn't there, and everything is fetched."""
    host = Host(tmp_path, None, SLOT_BYTES)
    payload = payload_of(workshop, tmp_path)
    nowhere, journal = tmp_path / "nowhere", Journal(tmp_path / "journal", every_bytes=128 * 1024)
    with pytest.raises(LocalError, match="cable"):
        put(host, workshop, Counting(payload, end_after=payload.stat().st_size // 2), nowhere, journal)
    LIES[lie](tmp_path / "journal")
    put(host, workshop, FileSource(payload), nowhere, journal)
    assert host.content("B") == workshop.image("1.1.0").read_bytes()


def test_another_release_begins_anew(tmp_path: Path, host: Host, workshop: Workshop) -> None:
    """What an interrupted install of one release left is no reason to trust it for another."""
    first, journal = payload_of(workshop, tmp_path), Journal(tmp_path / "journal", every_bytes=128 * 1024)
    with pytest.raises(LocalError, match="cable"):
        put(host, workshop, Counting(first, end_after=first.stat().st_size // 2), tmp_path / "nowhere", journal)
    second = payload_of(workshop, tmp_path, "1.2.0")
    put(host, workshop, FileSource(second), tmp_path, journal)
    assert host.content("B") == workshop.image("1.2.0").read_bytes()


def test_index_is_small(tmp_path: Path, workshop: Workshop) -> None:
    """An index has 5 bytes for each block and 16 for each chunk that has data: less than 0.15 % of the image."""
    payload = payload_of(workshop, tmp_path)
    index = payload.with_suffix(".index")
    _, _, _, _, block, chunks, count = HEAD.unpack(index.read_bytes()[: HEAD.size])
    assert (block, index.stat().st_size) == (4096, HEAD.size + 16 * chunks + 5 * count)
    assert index.stat().st_size <= SLOT_BYTES * 0.0015
    facts = json.loads((tmp_path / f"{PRODUCT}-1.1.0.release.json").read_text())
    assert [entry["kind"] for entry in facts["packages"]] == [KIND]
