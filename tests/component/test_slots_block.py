"""The same on real block devices: loop devices over an image file. Needs root."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bootloader import choose, valid_copies
from tests.support.disks import ENV, make_disk
from tests.support.hosts import FakeHost
from tests.support.slots import other_slot, partuuid_of
from updated.errors import ErrorCode, RefusedError
from updated.install.target import open_target
from updated.slots.boot.gptprio import GptPrio
from updated.slots.disk import FileDisk
from updated.slots.layout import HostPaths, Slot

SLOT_BYTES = 4 * 1024 * 1024
Attach = Callable[..., Path]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="NOT TESTED HERE: loop devices; they need root and /dev/loop-control",
)


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Attach a file as a loop device; detached after the test."""
    attached: list[str] = []

    def losetup(file: Path, *options: str) -> Path:
        argv = ["losetup", "--find", "--show", *options, str(file)]
        attached.append(subprocess.run(argv, env=ENV, check=True, capture_output=True, text=True).stdout.strip())
        return Path(attached[-1])

    yield losetup
    for device in reversed(attached):
        subprocess.run(["losetup", "--detach", device], env=ENV, check=True)


def control(disk: Path, image: Path, host: HostPaths | None = None) -> GptPrio:
    return GptPrio(disk, booted_partuuids=(partuuid_of(image.read_bytes(), "USR-A"),), host=host)


def attach_slot(attach: Attach, image: Path, slot: Slot) -> Path:
    return attach(image, "--offset", str(slot.offset), "--sizelimit", str(slot.size))


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_an_update_on_a_block_device(tmp_path: Path, attach: Attach, sector_size: int) -> None:
    """On a block device of either sector size the slot is written, armed, and picked by the boot loader model."""
    image = make_disk(tmp_path / "disk.img", SLOT_BYTES, sector_size=sector_size)
    disk = attach(image, "--sector-size", str(sector_size))
    with FileDisk(disk, writable=False) as opened:
        assert opened.sector_size == sector_size
    host = FakeHost(tmp_path).paths
    boot = control(disk, image, host)
    slot = other_slot(boot)
    with open_target(boot, slot, needed=SLOT_BYTES, host=host) as target:
        boot.unmark(slot)
        target.write(SLOT_BYTES - 7, b"the end")
        target.flush()
        target.drop_cache()
        assert target.read(SLOT_BYTES - 7, 7) == b"the end"
    boot.arm(slot, 1)
    assert choose(image).label == "USR-B"
    assert len(valid_copies(image.read_bytes())) == 2
    assert image.read_bytes()[slot.offset + SLOT_BYTES - 7 :][:7] == b"the end"


@pytest.fixture
def partition(tmp_path: Path, attach: Attach) -> tuple[GptPrio, Slot, FakeHost, Path]:
    """A whole disk and its partition USR-B, each a real device; sysfs, made up, tells which is whose partition."""
    image = make_disk(tmp_path / "disk.img", SLOT_BYTES)
    disk = attach(image)
    fake = FakeHost(tmp_path)
    boot = control(disk, image, HostPaths(mountinfo=fake.paths.mountinfo, sysfs=fake.paths.sysfs))
    slot = other_slot(boot)
    node = attach_slot(attach, image, slot)
    folder = fake.partition(
        fake.disk(disk.name, number(disk)), 3, number(node), place=range(slot.offset, slot.offset + slot.size)
    )
    folder.rename(folder.with_name(node.name))
    for kind in (f"dev/block/{number(node)}", f"class/block/{folder.name}"):
        (fake.paths.sysfs / kind).unlink()
        (fake.paths.sysfs / kind).symlink_to(folder.with_name(node.name))
    return boot, slot, fake, node


def number(device: Path) -> str:
    status = device.stat()
    assert stat.S_ISBLK(status.st_mode)
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def host_of(fake: FakeHost) -> HostPaths:
    return HostPaths(mountinfo=fake.paths.mountinfo, sysfs=fake.paths.sysfs, root=fake.paths.root)


def test_a_partition_has_its_own_device(partition: tuple[GptPrio, Slot, FakeHost, Path]) -> None:
    """Where the kernel has a device for the slot, that one is opened, from its own first byte."""
    boot, slot, fake, node = partition
    assert boot.path_of(slot) == (node, 0)
    with open_target(boot, slot, needed=1, host=host_of(fake)) as target:
        target.write(0, b"begin")
        target.flush()
    assert (fake.folder / "disk.img").read_bytes()[slot.offset :][:5] == b"begin"


def test_a_partition_that_moved_is_refused(partition: tuple[GptPrio, Slot, FakeHost, Path]) -> None:
    """A device that sysfs doesn't place at the slot's bytes is not taken for the slot."""
    boot, slot, fake, node = partition
    (fake.paths.sysfs / "dev/block" / number(node) / "start").write_text("1\n")
    path, offset = boot.path_of(slot)
    assert path != node
    assert offset == slot.offset


def test_a_partition_that_somebody_holds_is_refused(partition: tuple[GptPrio, Slot, FakeHost, Path]) -> None:
    """While the kernel or anyone has the device to itself, it is TARGET_BUSY."""
    boot, slot, fake, node = partition
    fd = os.open(node, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(RefusedError) as caught:
            open_target(boot, slot, needed=1, host=host_of(fake))
    finally:
        os.close(fd)
    assert caught.value.code is ErrorCode.TARGET_BUSY


@pytest.mark.parametrize(("point", "code"), [("/mnt", ErrorCode.TARGET_MOUNTED), ("/usr", ErrorCode.TARGET_IS_RUNNING)])
def test_a_partition_in_use_is_refused(
    partition: tuple[GptPrio, Slot, FakeHost, Path], point: str, code: ErrorCode
) -> None:
    """A mounted partition is known by its device number; under / or /usr it is the running one."""
    boot, slot, fake, node = partition
    fake.mount(str(node), point, number(node))
    with pytest.raises(RefusedError) as caught:
        open_target(boot, slot, needed=1, host=host_of(fake))
    assert caught.value.code is code


def test_a_real_mount_of_an_image_files_slot_is_seen(tmp_path: Path, attach: Attach) -> None:
    """A file system in the slot of an image file, really mounted through a loop device, is TARGET_MOUNTED."""
    image = make_disk(tmp_path / "disk.img", SLOT_BYTES)
    host = HostPaths()
    boot = control(image, image, host)
    slot = other_slot(boot)
    device = attach_slot(attach, image, slot)
    subprocess.run(["mkfs.ext4", "-q", str(device)], env=ENV, check=True, capture_output=True)
    point = tmp_path / "mnt"
    point.mkdir()
    subprocess.run(["mount", "-o", "ro", str(device), str(point)], env=ENV, check=True)
    try:
        with pytest.raises(RefusedError, match=str(point)) as caught:
            open_target(boot, slot, needed=1, host=host)
    finally:
        subprocess.run(["umount", str(point)], env=ENV, check=True)
    assert caught.value.code is ErrorCode.TARGET_MOUNTED
    open_target(boot, slot, needed=1, host=host).close()
