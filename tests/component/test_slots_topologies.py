"""Twenty-odd ways in which a system lies on its disks: each finds the running slot, or is refused in words."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disks import ENV
from tests.support.hosts import FakeHost
from updated.config import SlotSettings
from updated.errors import ErrorCode, LocalError
from updated.slots.running import booted_partuuids, find_disk
from updated.wiring import boot_control

A, B = "7130c94a-213a-4e5a-8e26-6cce9662f132", "e03dd35c-7c2d-4a47-b3fe-27f15780a57c"
PV = "00000000-0000-0000-0000-00000000000a"


def plain(host: FakeHost, disk: str = "sda", first: str = "8") -> tuple[Path, Path]:
    """A disk with both slots as partitions 3 and 4."""
    whole = host.disk(disk, f"{first}:0")
    return (
        host.partition(whole, 3, f"{first}:3", uevent=f"PARTNAME=USR-A\nPARTUUID={A}"),
        host.partition(whole, 4, f"{first}:4", uevent=f"PARTNAME=USR-B\nPARTUUID={B}"),
    )


def root_on(source: str, number: str) -> Callable[[FakeHost], None]:
    def lay(host: FakeHost) -> None:
        plain(host)
        host.mount(source, "/", number)

    return lay


def named(disk: str, first: str, part: str) -> Callable[[FakeHost], None]:
    def lay(host: FakeHost) -> None:
        plain(host, disk, first)
        host.mount(f"/dev/{part}", "/", f"{first}:3")

    return lay


def verity(host: FakeHost) -> None:
    data, _ = plain(host)
    tree = host.partition(data.parent, 5, "8:5", uevent=f"PARTUUID={PV}")
    host.mapper("dm-0", "253:0", data, tree)
    host.mount("/dev/mapper/root", "/", "253:0")


def crypt_over_verity(host: FakeHost) -> None:
    data, _ = plain(host)
    host.mapper("dm-1", "253:1", host.mapper("dm-0", "253:0", data))
    host.mount("/dev/dm-1", "/", "253:1")


def linear(host: FakeHost) -> None:
    data, _ = plain(host)
    host.mapper("dm-0", "253:0", data)
    host.mount("/dev/dm-0", "/usr", "253:0")
    host.mount("tmpfs", "/")


def raid_of_whole_disks(host: FakeHost) -> None:
    array = host.mapper("md127", "9:127", host.disk("sda", "8:0"), host.disk("sdb", "8:16"))
    host.partition(array, 3, "259:3", uevent=f"PARTUUID={A}")
    host.mount("/dev/md127p3", "/", "259:3")


def raid_of_partitions(host: FakeHost) -> None:
    one, _ = plain(host)
    two = host.partition(host.disk("sdb", "8:16"), 3, "8:19", uevent=f"PARTUUID={PV}")
    host.mapper("md0", "9:0", one, two)
    host.mount("/dev/md0", "/", "9:0")


def multipath(host: FakeHost) -> None:
    paths = host.mapper("dm-0", "253:0", host.disk("sda", "8:0"), host.disk("sdb", "8:16"))
    host.mapper("dm-1", "253:1", paths)
    host.mount("/dev/mapper/mpatha3", "/", "253:1")


def lvm(host: FakeHost) -> None:
    volume = host.partition(plain(host)[0].parent, 5, "8:5", uevent=f"PARTUUID={PV}")
    host.mapper("dm-0", "253:0", volume)
    host.mount("/dev/mapper/vg-root", "/", "253:0")


def overlay(host: FakeHost) -> None:
    plain(host)
    host.mount("/dev/sda3", "/run/lower", "8:3")
    overlay_line(host, "/run/lower")


def overlay_line(host: FakeHost, lower: str) -> None:
    with host.paths.mountinfo.open("a") as file:
        file.write(f"40 1 0:40 / / rw - overlay overlay rw,lowerdir={lower},upperdir=/run/up/u,workdir=/run/up/w\n")


def hidden_overlay(host: FakeHost) -> None:
    plain(host)
    overlay_line(host, "/sysroot")
    host.boot(f"root=PARTUUID={A} systemd.volatile=overlay")


def overlay_without_a_word(host: FakeHost) -> None:
    plain(host)
    overlay_line(host, "/sysroot")


def subvolume(host: FakeHost) -> None:
    plain(host)
    with host.paths.mountinfo.open("a") as file:
        file.write("30 1 0:31 /@root / rw - btrfs /dev/sda3 rw,subvol=/@root\n")


def sysext_over_usr(host: FakeHost) -> None:
    plain(host)
    host.mount("/dev/sda3", "/usr", "8:3")
    host.mount("/dev/sda9", "/", "8:9")
    with host.paths.mountinfo.open("a") as file:
        file.write("41 1 0:41 / /usr ro - overlay sysext ro,lowerdir=/run/ext/usr:/usr\n")


def whole_disk(host: FakeHost) -> None:
    plain(host)
    host.disk("vda", "254:0")
    host.mount("/dev/vda", "/", "254:0")


def live_medium(host: FakeHost) -> None:
    plain(host)
    host.loop("loop0", "7:0", Path("/run/live/filesystem.squashfs"), begin=0, size=1 << 20)
    host.mount("/dev/loop0", "/", "7:0")


def by_command_line(words: str) -> Callable[[FakeHost], None]:
    def lay(host: FakeHost) -> None:
        plain(host)
        host.mount("none", "/")
        host.boot(words)

    return lay


FOUND: dict[str, tuple[Callable[[FakeHost], None], str]] = {
    "partition": (root_on("/dev/sda3", "8:3"), "sda"),
    "NVMe": (named("nvme0n1", "259", "nvme0n1p3"), "nvme0n1"),
    "eMMC": (named("mmcblk0", "179", "mmcblk0p3"), "mmcblk0"),
    "virtio": (named("vda", "254", "vda3"), "vda"),
    "Xen": (named("xvda", "202", "xvda3"), "xvda"),
    "dm-verity, data and tree": (verity, "sda"),
    "dm-crypt over dm-verity": (crypt_over_verity, "sda"),
    "dm-linear under /usr, / in memory": (linear, "sda"),
    "RAID of whole disks, partitioned": (raid_of_whole_disks, "md127"),
    "overlay, the lower layer visible": (overlay, "sda"),
    "overlay, the lower layer hidden, named by the kernel": (hidden_overlay, "sda"),
    "btrfs subvolume": (subvolume, "sda"),
    "system extensions over /usr": (sysext_over_usr, "sda"),
    "root=PARTUUID": (by_command_line(f"root=PARTUUID={A}"), "sda"),
    "root=PARTLABEL": (by_command_line("root=PARTLABEL=USR-A"), "sda"),
    "verity generator": (by_command_line(f"systemd.verity_root_data=PARTUUID={A}"), "sda"),
}
REFUSED: dict[str, tuple[Callable[[FakeHost], None], str]] = {
    "RAID of partitions": (raid_of_partitions, r"partitions of 2 disks \(sda, sdb\) .*: / is ext4 of /dev/md0"),
    "multipath": (multipath, r"from no partition .*: / is ext4 of /dev/mapper/mpatha3"),
    "overlay, nothing named": (
        overlay_without_a_word,
        r": / is overlay of overlay; looked for no PARTUUID",
    ),
    "whole disk": (whole_disk, r"from no partition .*: / is ext4 of /dev/vda"),
    "live medium": (live_medium, r"from no partition .*: / is ext4 of /dev/loop0"),
    "NFS": (root_on("10.0.0.1:/export", "0:50"), r"from no partition .*: / is ext4 of 10\.0\.0\.1:/export"),
    "tmpfs": (root_on("tmpfs", "0:25"), r"from no partition .*: / is ext4 of tmpfs"),
    "initramfs": (root_on("rootfs", "0:2"), r"from no partition .*: / is ext4 of rootfs"),
    "ZFS": (root_on("rpool/ROOT/os", "0:33"), r"from no partition .*: / is ext4 of rpool/ROOT/os"),
}


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.mark.parametrize("name", FOUND)
def test_found(host: FakeHost, name: str) -> None:
    """The slot and its disk are found through whatever lies in between."""
    lay, disk = FOUND[name]
    lay(host)
    partuuids = booted_partuuids(host.paths)
    assert A in partuuids
    assert B not in partuuids
    assert find_disk(partuuids, host.paths) == host.paths.dev / disk


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(host: FakeHost, name: str) -> None:
    """What can't be told is refused with what was seen at / and what is understood, never guessed."""
    lay, why = REFUSED[name]
    lay(host)
    with pytest.raises(LocalError, match=why) as caught:
        find_disk(booted_partuuids(host.paths), host.paths)
    assert caught.value.code is ErrorCode.SLOT_NOT_FOUND
    assert "root=PARTUUID=" in caught.value.hint


@pytest.mark.parametrize("boot_loader", ["gptprio", "systemd-boot", "grub"])
def test_a_volume_group_is_no_slot(host: FakeHost, boot_loader: str) -> None:
    """A system on LVM lies on a partition that isn't a slot: with every boot loader that is what is said."""
    lvm(host)
    disk = host.paths.dev / "sda"
    _partitioned(disk, "label: gpt\nsize=64, name=USR-A\nsize=64, name=USR-B\n")
    control = boot_control(SlotSettings(boot_loader=boot_loader), host.paths)
    with pytest.raises(LocalError, match=f"this system runs from {PV}: no slot|labelled USR-A of type") as caught:
        control.booted()
    assert caught.value.code is ErrorCode.SLOT_NOT_FOUND


def test_a_disk_with_an_mbr_is_told_apart_from_a_damaged_one(host: FakeHost) -> None:
    """A disk without a GPT is told to have none, and nobody is told to repair it."""
    plain(host)
    host.mount("/dev/sda3", "/", "8:3")
    _partitioned(host.paths.dev / "sda", "label: dos\n2048,64\n,64\n")
    with pytest.raises(LocalError, match="an MBR and no GUID partition table") as caught:
        boot_control(SlotSettings(), host.paths).booted()
    assert "epair" not in caught.value.hint


def _partitioned(disk: Path, script: str) -> None:
    with disk.open("xb") as file:
        file.truncate(4 * 1024 * 1024)
    subprocess.run(["sfdisk", "--quiet", str(disk)], input=script, text=True, env=ENV, check=True)
