"""Virtual machines that a PC's BIOS and GRUB start: GRUB picks the slot by RAUC's variables in its environment block.

After each reboot the harness looks at the disk and switches the machine on again; it changes nothing on it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fixtures.image.disk import MIB, DiskPart
from fixtures.image.grub import BIOS_TYPE, ENVIRONMENT, core_image, grub_esp, install, read_environment
from fixtures.image.machine import SystemSlot, machine_slot
from fixtures.image.slot import SystemRelease
from tests.e2e.conftest import StartRow
from tests.support.vm.able import needs_virtual_machine
from tests.support.vm.disk import digest_of
from tests.support.vm.machine import COMMAND_LINE, VirtualMachine, make_machine
from tests.support.vm.qemu import Bios
from tests.support.vm.site import Site

TIER = "vm grub"
PROVEN = f"{ENVIRONMENT}.proven"
SLOTS = f'boot_loader = "grub"\ngrubenv = "/efi/{ENVIRONMENT}"\nkernel_path = "/efi/vmlinuz-{{slot}}"'
ESP_NUMBER = 2
pytestmark = [needs_virtual_machine(), pytest.mark.timeout(3600)]


@pytest.fixture
def first() -> SystemSlot:
    """The release that machines come with; its kernel is beside the environment block."""
    return machine_slot(SystemRelease("1.0.0"), bare=True)


@pytest.fixture
def machine(first: SystemSlot, site: Site, tmp_path: Path) -> VirtualMachine:
    """A machine with GRUB and one release, as a factory leaves it."""
    esp = grub_esp(tmp_path / "esp.img", first.kernel.image, COMMAND_LINE)
    bios = DiskPart("BIOS", BIOS_TYPE, MIB)
    made = make_machine(tmp_path / "vm", first, port=site.port, slots=SLOTS, esp=esp, more=[bios])
    install(made.disk.path, made.disk.places["BIOS"], core_image(tmp_path / "core.img", ESP_NUMBER))
    return made


def _environment(machine: VirtualMachine) -> dict[str, str]:
    return read_environment(machine.disk.esp_file(ENVIRONMENT))


def _try_of_b(machine: VirtualMachine) -> str | None:
    """B_TRY of a machine that runs; None where the machine is just writing the block."""
    try:
        return _environment(machine)["B_TRY"]
    except (ValueError, subprocess.CalledProcessError):
        return None


@pytest.mark.long
def test_update_is_confirmed(scenario: StartRow, site: Site, first: SystemSlot, machine: VirtualMachine) -> None:
    """An update puts slot B first, GRUB takes its try and boots it, and a good boot gives the try back."""
    row = scenario(TIER, "update A to B, confirm")
    second = machine_slot(SystemRelease("2.0.0"), bare=True)
    site.offer(second, "2.0.0", old=first, kernel=second.kernel.image)
    with machine.start(Bios()) as guest:
        guest.wait_off("reboot into the new release")
    row.booted("A")
    armed = _environment(machine)
    assert (armed["ORDER"].split()[0], armed["B_OK"], armed["B_TRY"]) == ("B", "1", "0")
    assert machine.disk.digest("USR-B") == digest_of(second.image)
    with machine.start(Bios()) as guest:
        guest.wait_for(lambda: _try_of_b(machine) == "1", "try that GRUB took")
        guest.wait_for(lambda: _try_of_b(machine) == "0", "confirmation on the disk")
        guest.wait_for(lambda: "2.0.0" in site.versions(), "request of the new release")
    row.booted("B")
    assert _environment(machine)["ORDER"].split()[0] == "B"
    assert read_environment(machine.disk.esp_file(PROVEN))["PROVEN"] == "B"


def test_broken_release_falls_back(scenario: StartRow, site: Site, first: SystemSlot, machine: VirtualMachine) -> None:
    """A release whose kernel panics has used up its one try, GRUB boots slot A again, and the server hears of it."""
    row = scenario(TIER, "broken release, back to A")
    broken = machine_slot(SystemRelease("2.0.0"), bare=True, init=False)
    site.offer(broken, "2.0.0", old=first, kernel=broken.kernel.image)
    with machine.start(Bios()) as guest:
        guest.wait_off("reboot into the new release")
    row.booted("A")
    with machine.start(Bios()) as guest:
        guest.wait_off("panic")
    row.booted(None)
    assert "Kernel panic" in guest.said()
    assert _environment(machine)["B_TRY"] == "1"
    with machine.start(Bios()) as guest:
        guest.wait_for(site.rollbacks, "report of the rollback")
    row.booted("A")
    assert site.versions()[-1] == "1.0.0"
    state = machine.disk.var_json("lib/updated/state.json", machine.scratch)
    assert state is not None
    assert state["failed_versions"] == ["2.0.0"]
