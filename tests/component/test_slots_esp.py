"""Where the ESP is mounted, how it is when it can't be written, and what systemd-boot says in its EFI variables."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.esp import EspHost, update
from tests.support.hosts import FakeHost
from tests.support.slots import other_slot
from updated.errors import ErrorCode, LocalError
from updated.slots.boot.efivars import LOADER, LoaderFacts, read_loader_facts
from updated.slots.boot.esp import find_mounts
from updated.slots.boot.systemd_boot import SystemdBoot


def mounts(host: FakeHost, *points: str, kind: str = "vfat") -> None:
    with host.paths.mountinfo.open("a") as file:
        for point in points:
            place = host.paths.root / point
            place.mkdir(parents=True, exist_ok=True)
            file.write(f"36 1 8:1 / {place} rw - {kind} /dev/sda1 rw\n")


@pytest.mark.parametrize(
    ("fat", "found"),
    [
        (("efi",), ["efi"]),
        (("boot",), ["boot"]),
        (("boot/efi",), ["boot/efi"]),
        (("boot", "efi"), ["efi", "boot"]),
        (("boot", "boot/efi"), ["boot/efi", "boot"]),
        (("mnt",), []),
        ((), []),
    ],
)
def test_the_esp_and_xbootldr_are_found(tmp_path: Path, fat: tuple[str, ...], found: list[str]) -> None:
    """/efi, /boot/efi and /boot are looked at for a FAT file system; /boot beside one of the first two is XBOOTLDR."""
    host = FakeHost(tmp_path)
    mounts(host, *fat)
    assert find_mounts(host.paths, None) == [host.paths.root / name for name in found]


def test_an_esp_mounted_on_demand_is_found(tmp_path: Path) -> None:
    """Where an automount is in front of it, both lines have the same place, and the FAT file system counts."""
    host = FakeHost(tmp_path)
    mounts(host, "efi", kind="autofs")
    assert find_mounts(host.paths, None) == []
    mounts(host, "efi")
    assert find_mounts(host.paths, None) == [host.paths.root / "efi"]


def test_a_named_esp_is_the_only_one(tmp_path: Path) -> None:
    """`slots.esp` is taken instead of the usual places, and only if a FAT file system is mounted there."""
    host = FakeHost(tmp_path)
    mounts(host, "efi", "srv/esp")
    assert find_mounts(host.paths, host.paths.root / "srv/esp") == [host.paths.root / "srv/esp"]
    assert find_mounts(host.paths, host.paths.root / "srv") == []


def test_no_esp_is_said_in_words(tmp_path: Path) -> None:
    """Without a mounted ESP the error names the setting and the places."""
    host = EspHost(tmp_path)
    parts = host.control()._parts
    with pytest.raises(LocalError, match=r"slots\.esp, /efi, /boot/efi, /boot") as caught:
        SystemdBoot(parts, folders=list, facts=LoaderFacts).slots()
    assert caught.value.code is ErrorCode.BOOT_FILES


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[EspHost]:
    """A host whose ESP is mounted read-only, as a sandbox or fstab does it."""
    host = EspHost(tmp_path)
    host.install_factory()
    host.put("loader/entries/slot-b.conf", host.entry_text("B", "0.9"))
    host.boot()
    subprocess.run(["mount", "--bind", host.esp, host.esp], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", host.esp], check=True)
    yield host
    subprocess.run(["umount", host.esp], check=True)


def test_a_read_only_esp_is_told_before_anything_changes(read_only: EspHost) -> None:
    """Un-marking, arming and confirming say what is read-only and which line the unit needs; slots are still read."""
    host = read_only
    control = host.control()
    assert control.booted().successful
    before = host.entries()
    for change in (control.unmark, lambda slot: control.arm(slot, 1)):
        with pytest.raises(LocalError, match="Read-only file system") as caught:
            change(other_slot(control))
        assert caught.value.code is ErrorCode.BOOT_READ_ONLY
        assert "ReadWritePaths=" in caught.value.hint
        assert host.entries() == before == ["slot-a.conf", "slot-b.conf"]


def test_a_counted_entry_on_a_read_only_esp_is_not_taken_for_confirmed(tmp_path: Path) -> None:
    """A blessing that the file system refused is an error, and the entry's counter says that nothing happened."""
    host = EspHost(tmp_path)
    host.install_factory()
    host.boot()
    update(host)
    host.boot()
    subprocess.run(["mount", "--bind", host.esp, host.esp], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", host.esp], check=True)
        control = host.control()
        with pytest.raises(LocalError) as caught:
            control.confirm(control.booted())
        assert caught.value.code is ErrorCode.BOOT_READ_ONLY
        assert not control.booted().successful
        assert other_slot(control).successful
    finally:
        subprocess.run(["umount", host.esp], check=True)
    assert "slot-b+2-1.conf" in host.entries()


def test_the_boot_loaders_variables_are_read(tmp_path: Path) -> None:
    """Four bytes of attributes, then UTF-16; a counter is no part of the entry's name, and what isn't set is empty."""
    folder = tmp_path / "firmware/efi/efivars"
    folder.mkdir(parents=True)
    for name, value in {
        "LoaderEntrySelected": "Slot-B+2-1.conf",
        "LoaderBootCountPath": "\\loader\\entries\\slot-b+2-1.conf",
    }.items():
        (folder / f"{name}-{LOADER}").write_bytes(b"\x06\0\0\0" + f"{value}\0".encode("utf-16-le"))
    assert read_loader_facts(tmp_path) == LoaderFacts(
        selected="slot-b.conf", count_path="/loader/entries/slot-b+2-1.conf"
    )
    assert read_loader_facts(tmp_path / "none") == LoaderFacts()
