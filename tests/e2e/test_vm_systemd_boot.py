"""Virtual machines that OVMF and systemd-boot start: the boot loader picks the slot and counts its tries.

After each reboot the harness looks at the disk and switches the machine on again; it changes nothing on it.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fixtures.image.esp import systemd_boot_esp
from fixtures.image.machine import SystemSlot, machine_slot
from fixtures.image.slot import SystemRelease
from tests.e2e.conftest import StartRow
from tests.support.campaign import scale
from tests.support.vm.able import needs_virtual_machine
from tests.support.vm.disk import digest_of
from tests.support.vm.machine import COMMAND_LINE, VirtualMachine, make_machine
from tests.support.vm.outage import Outages
from tests.support.vm.qemu import Uefi
from tests.support.vm.site import Site

TIER = "vm systemd-boot"
ENTRIES = "loader/entries"
PROVEN = ["slot-a.conf", "slot-b.conf"]
SEED = 20261202
SLOTS = 'boot_loader = "systemd-boot"'
pytestmark = [needs_virtual_machine(), pytest.mark.timeout(3600)]


@pytest.fixture
def first() -> SystemSlot:
    """The release that machines come with; its kernel is on the ESP."""
    return machine_slot(SystemRelease("1.0.0"), bare=True)


@pytest.fixture
def machine(first: SystemSlot, site: Site, tmp_path: Path) -> VirtualMachine:
    """A machine with systemd-boot and one release, as a factory leaves it."""
    options = f"root=PARTLABEL=USR-A {COMMAND_LINE}"
    esp = systemd_boot_esp(tmp_path / "esp.img", first.kernel.image, options, version="1.0.0")
    return make_machine(tmp_path / "vm", first, port=site.port, slots=SLOTS, esp=esp)


@pytest.mark.long
def test_update_is_blessed(
    scenario: StartRow, site: Site, first: SystemSlot, machine: VirtualMachine, tmp_path: Path
) -> None:
    """An update gives slot B an entry with a counter, systemd-boot boots it, and a good boot takes the counter off."""
    row = scenario(TIER, "update A to B, blessed")
    second = machine_slot(SystemRelease("2.0.0"), bare=True)
    site.offer(second, "2.0.0", old=first, kernel=second.kernel.image)
    firmware = Uefi.fresh(tmp_path / "variables")
    with machine.start(firmware) as guest:
        guest.wait_off("reboot into the new release")
    row.booted("A")
    assert machine.disk.esp_names(ENTRIES) == ["slot-a.conf", "slot-b+3.conf"]
    assert machine.disk.digest("USR-B") == digest_of(second.image)
    with machine.start(firmware) as guest:
        guest.wait_for(lambda: machine.disk.esp_names(ENTRIES) == PROVEN, "blessing on the disk")
        guest.wait_for(lambda: "2.0.0" in site.versions(), "request of the new release")
    row.booted("B")
    entry = machine.disk.esp_file(f"{ENTRIES}/slot-b.conf").decode()
    assert "root=PARTLABEL=USR-B" in entry or machine.disk.slot("USR-B").partuuid in entry, "a cut here finds it whole"
    assert "Kernel panic" not in guest.said()


@pytest.mark.long
def test_broken_release_falls_back(
    scenario: StartRow, site: Site, first: SystemSlot, machine: VirtualMachine, tmp_path: Path
) -> None:
    """A release whose kernel panics uses its counter up, boot after boot, and systemd-boot boots slot A again."""
    row = scenario(TIER, "broken release, back to A")
    broken = machine_slot(SystemRelease("2.0.0"), bare=True, init=False)
    site.offer(broken, "2.0.0", old=first, kernel=broken.kernel.image)
    firmware = Uefi.fresh(tmp_path / "variables")
    with machine.start(firmware) as guest:
        guest.wait_off("reboot into the new release")
    row.booted("A")
    for name in ("slot-b+2-1.conf", "slot-b+1-2.conf", "slot-b+0-3.conf"):
        with machine.start(firmware) as guest:
            guest.wait_off("panic")
        assert machine.disk.esp_names(ENTRIES) == ["slot-a.conf", name]
        row.booted(None)
    with machine.start(firmware) as guest:
        guest.wait_for(site.rollbacks, "report of the rollback")
    row.booted("A")
    state = machine.disk.var_json("lib/updated/state.json", machine.scratch)
    assert state is not None
    assert state["failed_versions"] == ["2.0.0"]


@pytest.mark.long
def test_power_cuts(scenario: StartRow, site: Site, first: SystemSlot, machine: VirtualMachine, tmp_path: Path) -> None:
    """With its power cut at any moment of an update, and writes to the FAT lost or torn, it boots a whole slot."""
    count = scale(2, 20)
    row = scenario(TIER, f"update, and {count} power cuts, each to READY")
    second = machine_slot(SystemRelease("2.0.0"), bare=True)
    site.offer(second, "2.0.0", old=first, kernel=second.kernel.image)
    outages = Outages(machine, (digest_of(first.image), digest_of(second.image)))
    firmware = Uefi.fresh(tmp_path / "variables")
    with machine.start(firmware, write_log=outages.next_log()) as guest:
        guest.wait_off("reboot into the new release")
    row.booted("A")
    with machine.start(firmware, write_log=outages.next_log()) as guest:
        guest.wait_for(lambda: machine.disk.esp_names(ENTRIES) == PROVEN, "blessing on the disk")
    row.booted("B")
    dice = random.Random(SEED)
    for number in range(count):
        cut = outages.any_moment(dice)
        print(f"power cut {number} of seed {SEED}: {cut}")
        after = outages.after(cut, tmp_path / f"cut-{number}")
        seen = site.requests
        with after.start(Uefi.fresh(after.folder / "variables")) as guest:
            guest.wait_for(lambda seen=seen: site.requests > seen, f"request after {cut}")
        label = {"1.0.0": "USR-A", "2.0.0": "USR-B"}[site.versions(seen)[0]]
        row.booted(label)
        outages.assert_whole(after, label)
        after.discard()
