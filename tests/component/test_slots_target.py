"""Opening a slot for writing: every refusal comes before the first byte."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.disks import make_disk
from tests.support.hosts import FakeHost
from tests.support.slots import other_slot, partuuid_of
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.medium import Target
from updated.install.target import open_running, open_target
from updated.slots.boot.gptprio import GptPrio
from updated.slots.layout import Slot

SLOT_BYTES = 256 * 1024


class Bench:
    """A disk image, a boot control on it that runs from A, and a made-up host."""

    def __init__(self, folder: Path) -> None:
        self.disk = make_disk(folder / "disk.img", SLOT_BYTES)
        self.fake = FakeHost(folder)
        self.host = self.fake.paths
        self.boot = GptPrio(self.disk, booted_partuuids=(partuuid_of(self.disk.read_bytes(), "USR-A"),), host=self.host)
        self.slot: Slot = other_slot(self.boot)

    def open(self, needed: int = SLOT_BYTES) -> Target:
        return open_target(self.boot, self.slot, needed=needed, host=self.host)

    def loop(self, begin: int, size: int, number: str = "7:3") -> Path:
        return self.fake.loop("loop3", number, self.disk, begin=begin, size=size)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_is_written_is_read_back_and_nothing_else_changes(bench: Bench) -> None:
    """Bytes at both ends of a slot arrive where the slot is, and no byte outside of it changes."""
    before = bench.disk.read_bytes()
    with bench.open() as target:
        assert target.size == SLOT_BYTES
        target.write(0, b"first")
        target.write(SLOT_BYTES - 4, memoryview(b"last"))
        target.flush()
        target.drop_cache()
        assert (target.read(0, 5), target.read(SLOT_BYTES - 4, 4)) == (b"first", b"last")
        assert target.read(5, 0) == b""
    after, place = bench.disk.read_bytes(), bench.slot.offset
    assert after[place : place + 5] == b"first"
    assert after[:place] == before[:place]
    assert after[place + SLOT_BYTES :] == before[place + SLOT_BYTES :]


@pytest.mark.parametrize(
    ("offset", "length"), [(SLOT_BYTES, 1), (SLOT_BYTES - 1, 2), (-1, 1), (2**63, 1), (0, SLOT_BYTES + 1)]
)
def test_nothing_outside_of_the_slot_can_be_reached(bench: Bench, offset: int, length: int) -> None:
    """A write or read that leaves the slot by one byte is refused as a whole."""
    before = bench.disk.read_bytes()
    with bench.open() as target:
        for reach in (lambda: target.write(offset, b"x" * length), lambda: target.read(offset, length)):
            with pytest.raises(RefusedError) as caught:
                reach()
            assert caught.value.code is ErrorCode.EXTENT_OUT_OF_RANGE
    assert bench.disk.read_bytes() == before


def running_by_boot_control(bench: Bench) -> None:
    bench.slot = bench.boot.booted()


def running_by_name(bench: Bench) -> None:
    bench.slot = replace(bench.slot, name="A")


def running_by_command_line(bench: Bench) -> None:
    bench.fake.boot(f"root=PARTUUID={bench.slot.partuuid}")


def running_by_uevent(bench: Bench) -> None:
    bench.fake.partition(bench.fake.disk("sdz", "65:144"), 3, "65:147", uevent=f"PARTUUID={bench.slot.partuuid}")
    bench.fake.mount("/dev/sdz3", "/", "65:147")


def running_by_loop(bench: Bench) -> None:
    bench.loop(bench.slot.offset, SLOT_BYTES)
    bench.fake.mount("/dev/loop3", "/", "7:3")


def running_by_loop_partition(bench: Bench) -> None:
    loop = bench.loop(0, bench.disk.stat().st_size)
    bench.fake.partition(loop, 3, "259:1", place=range(bench.slot.offset, bench.slot.offset + SLOT_BYTES))
    bench.fake.mount("/dev/loop3p3", "/usr", "259:1")


def running_by_verity_on_loop(bench: Bench) -> None:
    bench.fake.mapper("dm-0", "253:0", bench.loop(bench.slot.offset, SLOT_BYTES))
    bench.fake.mount("/dev/dm-0", "/usr", "253:0")


def mounted_by_loop(bench: Bench) -> None:
    bench.loop(bench.slot.offset, SLOT_BYTES)
    bench.fake.mount("/dev/loop3", "/mnt", "7:3")


def mounted_by_a_loop_that_overlaps(bench: Bench) -> None:
    bench.loop(bench.slot.offset + SLOT_BYTES - 512, 4096)
    bench.fake.mount("/dev/loop3", "/mnt", "7:3")


def mounted_by_loop_partition(bench: Bench) -> None:
    loop = bench.loop(0, bench.disk.stat().st_size)
    bench.fake.partition(loop, 3, "259:1", place=range(bench.slot.offset, bench.slot.offset + SLOT_BYTES))
    bench.fake.mount("/dev/loop3p3", "/mnt", "259:1")


def mounted_by_mapper_on_loop(bench: Bench) -> None:
    bench.fake.mapper("dm-0", "253:0", bench.loop(bench.slot.offset, SLOT_BYTES))
    bench.fake.mount("/dev/mapper/x", "/mnt", "253:0")


def image_ends_early(bench: Bench) -> None:
    os.truncate(bench.disk, bench.slot.offset + SLOT_BYTES - 1)


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (running_by_boot_control, ErrorCode.TARGET_IS_RUNNING),
        (running_by_name, ErrorCode.TARGET_IS_RUNNING),
        (running_by_command_line, ErrorCode.TARGET_IS_RUNNING),
        (running_by_uevent, ErrorCode.TARGET_IS_RUNNING),
        (running_by_loop, ErrorCode.TARGET_IS_RUNNING),
        (running_by_loop_partition, ErrorCode.TARGET_IS_RUNNING),
        (running_by_verity_on_loop, ErrorCode.TARGET_IS_RUNNING),
        (mounted_by_loop, ErrorCode.TARGET_MOUNTED),
        (mounted_by_a_loop_that_overlaps, ErrorCode.TARGET_MOUNTED),
        (mounted_by_loop_partition, ErrorCode.TARGET_MOUNTED),
        (mounted_by_mapper_on_loop, ErrorCode.TARGET_MOUNTED),
        (image_ends_early, ErrorCode.TARGET_TOO_SMALL),
    ],
)
def test_a_slot_in_use_is_refused(bench: Bench, trouble: Callable[[Bench], None], code: ErrorCode) -> None:
    """What runs, is mounted, or isn't all there is refused with its own code, and not a byte is written."""
    trouble(bench)
    before = bench.disk.read_bytes()
    with pytest.raises(RefusedError) as caught:
        bench.open()
    assert caught.value.code is code
    assert bench.disk.read_bytes() == before


def test_the_other_slots_loop_is_no_reason_to_refuse(bench: Bench) -> None:
    """The running slot, mounted by loop from the very same image file, doesn't stand in the way."""
    bench.loop(bench.boot.booted().offset, SLOT_BYTES)
    bench.fake.mount("/dev/loop3", "/", "7:3")
    bench.open().close()


def test_a_release_that_is_too_large_is_refused(bench: Bench) -> None:
    """One byte more than the slot has is refused before the slot is opened; as many as it has are taken."""
    bench.open(SLOT_BYTES).close()
    with pytest.raises(RefusedError) as caught:
        bench.open(SLOT_BYTES + 1)
    assert caught.value.code is ErrorCode.TARGET_TOO_SMALL


class Elsewhere(GptPrio):
    """A boot control whose slot lies somewhere else."""

    place: tuple[Path, int]

    def path_of(self, slot: Slot) -> tuple[Path, int]:
        return self.place


def link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "disk.img")
    return folder / "link"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def folder_itself(folder: Path) -> Path:
    return folder


def missing(folder: Path) -> Path:
    return folder / "missing"


@pytest.mark.parametrize("make", [link, fifo, folder_itself, missing])
def test_only_a_device_or_a_file_is_opened(tmp_path: Path, bench: Bench, make: Callable[[Path], Path]) -> None:
    """A symbolic link, a pipe, a directory or nothing in the slot's place is not opened, and nothing waits for it."""
    boot = Elsewhere(bench.disk, booted_partuuids=(bench.boot.booted().partuuid,), host=bench.host)
    boot.place = (make(tmp_path), 0)
    with pytest.raises(LocalError) as caught:
        open_target(boot, bench.slot, needed=1, host=bench.host)
    assert caught.value.code is ErrorCode.INSTALL_DEVICE_OPEN


def test_mounts_that_cant_be_known_are_a_reason_to_refuse(bench: Bench) -> None:
    """Without mountinfo nobody can tell that the slot isn't mounted, so it isn't opened."""
    bench.host.mountinfo.unlink()
    with pytest.raises(LocalError) as caught:
        bench.open()
    assert caught.value.code is ErrorCode.INSTALL_DEVICE_OPEN


def test_a_second_writer_is_refused(bench: Bench) -> None:
    """While one has the slot open, another gets TARGET_BUSY; afterwards it may."""
    with bench.open(), pytest.raises(RefusedError) as caught:
        bench.open()
    assert caught.value.code is ErrorCode.TARGET_BUSY
    bench.open().close()


def test_the_boot_bits_can_be_changed_while_the_target_is_open(bench: Bench) -> None:
    """The target's lock on an image file doesn't keep its own boot control from un-marking the slot."""
    with bench.open():
        bench.boot.unmark(bench.slot)
    assert not other_slot(bench.boot).bootable


def test_of_many_at_once_one_writes(bench: Bench) -> None:
    """Of a hundred that open the same slot at the same moment exactly one gets it: its lock is the open file's."""
    count = 100
    together = threading.Barrier(count, timeout=60)

    def race(_number: int) -> ErrorCode | None:
        together.wait()
        try:
            target = bench.open()
        except RefusedError as error:
            together.wait()  # nobody closes before everybody has tried
            return error.code
        together.wait()
        target.close()
        return None

    with ThreadPoolExecutor(count) as pool:
        seen = Counter(pool.map(race, range(count)))
    assert seen == {None: 1, ErrorCode.TARGET_BUSY: count - 1}


def test_a_full_file_system_is_said_to_be_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC has its own code, any other failure of a write is DOWNLOAD_WRITE."""
    for number, code in ((errno.ENOSPC, ErrorCode.NO_SPACE), (errno.EIO, ErrorCode.DOWNLOAD_WRITE)):

        def fail(*_arguments: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with bench.open() as target, monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            with pytest.raises(LocalError) as caught:
                target.write(0, b"x")
            assert caught.value.code is code


def test_a_write_beyond_the_allowed_file_size_is_an_error_of_ours(bench: Bench) -> None:
    """A real refusal of the kernel, by the limit on file sizes, is reported as DOWNLOAD_WRITE."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with bench.open() as target:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bench.slot.offset + 100, old[1]))
        try:
            with pytest.raises(LocalError) as caught:
                target.write(50, b"x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code is ErrorCode.DOWNLOAD_WRITE


def test_a_failed_flush_never_becomes_a_good_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reports lost pages once: after a failed flush the next one fails too, though fsync would succeed."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with bench.open() as target:
        target.write(0, b"x")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(LocalError):
                target.flush()
        with pytest.raises(LocalError, match="earlier flush failed") as caught:
            target.flush()
    assert caught.value.code is ErrorCode.DOWNLOAD_WRITE


def test_a_medium_that_ends_is_a_failed_read(bench: Bench) -> None:
    """An image file that shrinks under the install is READ_BACK, not short data."""
    with bench.open() as target:
        os.truncate(bench.disk, bench.slot.offset + 10)
        with pytest.raises(LocalError) as caught:
            target.read(0, 11)
    assert caught.value.code is ErrorCode.READ_BACK


def test_the_running_slot_is_opened_for_reading_only(bench: Bench) -> None:
    """The source of a delta can be read, and a write to it fails whoever asks for it."""
    before = bench.disk.read_bytes()
    with open_running(bench.boot) as source:
        assert source.read(0, 16) == bytes(16)
        with pytest.raises(LocalError) as caught:
            source.write(0, b"x")
    assert caught.value.code is ErrorCode.DOWNLOAD_WRITE
    assert bench.disk.read_bytes() == before
