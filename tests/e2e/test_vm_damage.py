"""What the boot loaders read is damaged on a virtual machine's disk; the real firmware and boot loader must cope.

The models judge each single bit elsewhere; here a sample shows that the real ones agree.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.image.disk import MIB, DiskPart
from fixtures.image.esp import put, systemd_boot_esp
from fixtures.image.grub import BIOS_TYPE, ENVIRONMENT, core_image, environment_block, grub_esp, install
from fixtures.image.machine import SystemSlot, machine_slot
from fixtures.image.slot import SystemRelease
from tests.e2e.conftest import StartRow
from tests.support.vm.able import needs_virtual_machine
from tests.support.vm.machine import COMMAND_LINE, VirtualMachine, make_machine
from tests.support.vm.qemu import Bios, Guest, Uefi
from tests.support.vm.site import Site

SECTOR = 512
HEADER = range(SECTOR, SECTOR + 92)  # bytes of the primary copy's header
ENTRIES = "loader/entries"
pytestmark = [needs_virtual_machine(), pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture
def first() -> SystemSlot:
    """The release that machines come with."""
    return machine_slot(SystemRelease("1.0.0"), bare=True)


def _with_systemd_boot(first: SystemSlot, site: Site, tmp_path: Path) -> VirtualMachine:
    options = f"root=PARTLABEL=USR-A {COMMAND_LINE}"
    esp = systemd_boot_esp(tmp_path / "esp.img", first.kernel.image, options, version="1.0.0")
    return make_machine(tmp_path / "vm", first, port=site.port, slots='boot_loader = "systemd-boot"', esp=esp)


def _flip(disk: Path, at: int, bit: int) -> None:
    with disk.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def _comes_up(guest: Guest, site: Site) -> None:
    """Wait for the first request of the old release."""
    with guest:
        guest.wait_for(site.versions, "request of the machine")
    assert site.versions() == ["1.0.0"] * site.requests


def test_flipped_bit_in_the_table_gptprio(scenario: StartRow, site: Site, tmp_path: Path) -> None:
    """With a bit of the primary table's header flipped the kernel finds its root by the backup, and slot A runs."""
    row = scenario("vm gptprio", "flipped bit in the primary GPT header")
    vm = make_machine(tmp_path / "vm", machine_slot(SystemRelease("1.0.0")), port=site.port)
    _flip(vm.disk.path, HEADER[40], 3)
    choice, guest = vm.boot_gptprio()
    _comes_up(guest, site)
    row.booted(choice.label)
    assert choice.label == "USR-A"


def test_flipped_bit_in_the_table_uefi(scenario: StartRow, site: Site, first: SystemSlot, tmp_path: Path) -> None:
    """With a bit of the primary table's header flipped OVMF and systemd-boot find the ESP, and slot A runs."""
    row = scenario("vm systemd-boot", "flipped bit in the primary GPT header")
    vm = _with_systemd_boot(first, site, tmp_path)
    _flip(vm.disk.path, HEADER[40], 3)
    _comes_up(vm.start(Uefi.fresh(tmp_path / "variables")), site)
    row.booted("A")


@pytest.mark.parametrize("place", ["keyword", "path"])
def test_damaged_entry(scenario: StartRow, site: Site, first: SystemSlot, tmp_path: Path, place: str) -> None:
    """With a bit of the new slot's entry flipped, its boots come to nothing or it is no entry, and then slot A runs.

    Where systemd-boot finds no kernel it stops, and somebody must switch the machine off and on: a watchdog, a person.
    """
    row = scenario("vm systemd-boot", f"flipped bit in the {place} of the new entry")
    vm = _with_systemd_boot(first, site, tmp_path)
    entry = vm.disk.esp_file(f"{ENTRIES}/slot-a.conf").decode().replace("slot-a", "slot-b").replace("USR-A", "USR-B")
    entry = entry.replace("version 1.0.0", "version 2.0.0")
    damaged = entry.replace("linux /", "linuy /") if place == "keyword" else entry.replace("/linux", "/linuy")
    put(vm.disk.path, vm.disk.places["ESP"][0], f"{ENTRIES}/slot-b+2.conf", damaged, tmp_path)
    firmware = Uefi.fresh(tmp_path / "variables")
    tried = ("slot-b+1-1.conf", "slot-b+0-2.conf") if place == "path" else ()
    for name in tried:
        with vm.start(firmware) as guest:
            guest.wait_for(lambda name=name: name in vm.disk.esp_names(ENTRIES), "try of the entry", 120.0)
        row.booted(None)
    _comes_up(vm.start(firmware), site)
    row.booted("A")


def test_damaged_environment_block(scenario: StartRow, site: Site, first: SystemSlot, tmp_path: Path) -> None:
    """With a bit of the environment block's first line flipped GRUB can't read that B is armed, and slot A runs."""
    row = scenario("vm grub", "flipped bit in the environment block")
    esp = grub_esp(tmp_path / "esp.img", first.kernel.image, COMMAND_LINE)
    slots = f'boot_loader = "grub"\ngrubenv = "/efi/{ENVIRONMENT}"\nkernel_path = "/efi/vmlinuz-{{slot}}"'
    bios = DiskPart("BIOS", BIOS_TYPE, MIB)
    vm = make_machine(tmp_path / "vm", first, port=site.port, slots=slots, esp=esp, more=[bios])
    install(vm.disk.path, vm.disk.places["BIOS"], core_image(tmp_path / "core.img", 2))
    armed = {"ORDER": "B A", "A_OK": "1", "A_TRY": "0", "B_OK": "1", "B_TRY": "0"}
    block = environment_block(armed).decode().replace("GRUB", "GRUC", 1)
    put(vm.disk.path, vm.disk.places["ESP"][0], ENVIRONMENT, block, tmp_path)
    _comes_up(vm.start(Bios()), site)
    row.booted("A")
