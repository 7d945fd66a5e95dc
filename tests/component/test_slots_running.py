"""Which slot runs, in every way that a host's devices can be laid out; sysfs and the command line are made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disks import make_disk
from tests.support.hosts import FakeHost
from updated.errors import ErrorCode, LocalError
from updated.slots.boot.gptprio import GptPrio
from updated.slots.devices import running_devices
from updated.slots.running import booted_partuuids, find_disk

A = "7130c94a-213a-4e5a-8e26-6cce9662f132"
B = "e03dd35c-7c2d-4a47-b3fe-27f15780a57c"


def uevent(partuuid: str, label: str = "USR-A") -> str:
    return f"PARTNAME={label}\nPARTUUID={partuuid}"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A disk with both slots, as partitions 3 and 4."""
    host = FakeHost(tmp_path)
    disk = host.disk("sda", "8:0")
    host.partition(disk, 3, "8:3", uevent=uevent(A))
    host.partition(disk, 4, "8:4", uevent=uevent(B, "USR-B"))
    return host


def part(host: FakeHost, name: str = "sda3") -> Path:
    return (host.paths.sysfs / "class/block" / name).resolve()


@pytest.mark.parametrize(
    "cmdline",
    [
        f"root=PARTUUID={A}",
        f"BOOT_IMAGE=/vmlinuz root=PARTUUID={A.upper()} ro quiet",
        f"usr=PARTUUID={A} rootflags=rw",
        f"mount.usr=PARTUUID={A}",
        f"mount.usr=/dev/mapper/usr verity.usr=PARTUUID={A} rootflags=rw mount.usrflags=ro",
        f"systemd.verity_usr_data=PARTUUID={A} systemd.verity_usr_hash=PARTUUID=00000000-0000-0000-0000-000000000001",
        f"systemd.verity_root_data=PARTUUID={A}",
        f'"root=PARTUUID={A}" ro',
        "root=PARTLABEL=USR-A",
    ],
)
def test_the_command_line_names_the_running_slot(host: FakeHost, cmdline: str) -> None:
    """Every way in which boot loaders and distributions name a partition to the kernel is understood."""
    assert booted_partuuids(host.boot(cmdline).paths) == (A,)


@pytest.mark.parametrize(
    "cmdline",
    ["", "root=/dev/sda3", "root=LABEL=x", f"notroot=PARTUUID={A}", f"resume=PARTUUID={A}", "root=PARTLABEL=USR-C"],
)
def test_other_words_name_no_slot(host: FakeHost, cmdline: str) -> None:
    """A PARTUUID that isn't what the system runs from is not taken for it."""
    assert booted_partuuids(host.boot(cmdline).paths) == ()


def direct(host: FakeHost) -> None:
    host.mount("/dev/sda3", "/", "8:3")


def usr_only(host: FakeHost) -> None:
    host.mount("tmpfs", "/")
    host.mount("/dev/sda3", "/usr", "8:3")


def btrfs(host: FakeHost) -> None:
    host.mount("/dev/sda3", "/", "0:31")


def verity(host: FakeHost) -> None:
    host.mapper("dm-0", "253:0", part(host))
    host.mount("/dev/dm-0", "/usr", "253:0")


def crypt_on_verity(host: FakeHost) -> None:
    host.mapper("dm-1", "253:1", host.mapper("dm-0", "253:0", part(host)))
    host.mount("/dev/dm-1", "/", "253:1")


def raid(host: FakeHost) -> None:
    host.mapper("md0", "9:0", part(host))
    host.mount("/dev/md0", "/", "9:0")


def over_a_slot(host: FakeHost) -> None:
    host.mount("/dev/sda3", "/usr", "8:3")
    host.mount("sysext", "/usr")


@pytest.mark.parametrize("layout", [direct, usr_only, btrfs, verity, crypt_on_verity, raid, over_a_slot])
def test_devices_name_the_running_slot(host: FakeHost, layout: Callable[[FakeHost], None]) -> None:
    """The slot under / or /usr is found whatever lies in between, without a word on the command line."""
    layout(host)
    assert booted_partuuids(host.paths) == (A,)
    assert find_disk((A,), host.paths) == host.paths.dev / "sda"


def test_devices_are_surer_than_the_command_line(host: FakeHost) -> None:
    """When both tell, what is mounted comes first, and what the command line names is in use as well."""
    verity(host)
    assert booted_partuuids(host.boot(f"root=PARTUUID={B}").paths) == (A, B)


def test_a_number_of_a_mount_leads_to_the_device(host: FakeHost) -> None:
    """The device number of / itself is enough; mountinfo may be hidden."""
    number = host.paths.root.stat().st_dev
    disk = host.disk("vdb", "254:16")
    host.partition(disk, 1, f"{number >> 8 & 0xFFF}:{number & 0xFF}", uevent=uevent(A))
    assert booted_partuuids(host.paths) == (A,)


def test_an_older_kernel_doesnt_tell_the_partuuid(tmp_path: Path) -> None:
    """Where the uevent has no PARTUUID, the disk's own table tells it by the partition's number."""
    host = FakeHost(tmp_path)
    disk = host.disk("sdb", "8:16")
    host.mount("/dev/sdb2", "/", "8:18")
    host.partition(disk, 2, "8:18")
    assert booted_partuuids(host.paths) == ()  # the disk can't be read
    make_disk(host.paths.dev / "sdb", 64 * 1024)
    boot = GptPrio(host.paths.dev / "sdb", booted_partuuids=booted_partuuids(host.paths))
    assert boot.booted().label == "USR-A"


def test_the_disk_is_found_by_partuuid(host: FakeHost) -> None:
    """A container without devices of its own still finds the disk that the command line is about."""
    assert find_disk((B,), host.paths) == host.paths.dev / "sda"


def test_a_cloned_disk_is_refused(host: FakeHost) -> None:
    """Two disks with the same PARTUUIDs: nobody guesses which one to write to."""
    host.partition(host.disk("sdb", "8:16"), 3, "8:19", uevent=uevent(A))
    with pytest.raises(LocalError, match="partitions of 2 disks") as caught:
        find_disk((A,), host.paths)
    assert caught.value.code is ErrorCode.SLOT_NOT_FOUND


def test_a_cloned_disk_doesnt_matter_when_the_running_device_is_known(host: FakeHost) -> None:
    """Two disks with the same PARTUUIDs, but / tells which of them runs."""
    host.partition(host.disk("sdb", "8:16"), 3, "8:19", uevent=uevent(A))
    host.mount("/dev/sdb3", "/", "8:19")
    assert find_disk((A,), host.paths) == host.paths.dev / "sdb"


def test_no_disk_is_said_in_words(host: FakeHost) -> None:
    """A host that runs from no partition is told what was looked for."""
    with pytest.raises(LocalError, match="looked for no PARTUUID"):
        find_disk((), host.paths)


def test_devices_that_go_away_are_no_error(host: FakeHost) -> None:
    """A source that names no device of this host is left out."""
    host.mount("/dev/gone7", "/", "8:99")
    assert running_devices(host.paths) == []
