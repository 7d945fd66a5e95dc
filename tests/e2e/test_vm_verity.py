"""Virtual machines that run only a verified root: a slot's unified kernel image has its hash, and opens dm-verity."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.image.esp import unified_esp
from fixtures.image.programs import output
from fixtures.image.slot import SystemRelease
from fixtures.image.verified import LABELS, VerifiedSlot, partitions, verified_slot
from tests.e2e.conftest import StartRow
from tests.support.vm.able import needs_virtual_machine
from tests.support.vm.disk import digest_of
from tests.support.vm.machine import COMMAND_LINE, VirtualMachine, make_machine
from tests.support.vm.qemu import Uefi
from tests.support.vm.site import Site

TIER = "vm dm-verity"
IMAGES = "EFI/Linux"
SLOTS = f'boot_loader = "systemd-boot"\nverity_labels = ["{LABELS[0]}", "{LABELS[1]}"]'
ATTEMPTS = "lib/machine/attempts"
# Tries to change the system in each way that root has, and notes what came of each.
WRITER = f"""#!/bin/sh
exec > /var/{ATTEMPTS} 2>&1
try() {{ "$@" && echo "DONE: $*" || echo "refused: $*"; }}
try touch /usr/written
try mount -o remount,rw /
try touch /usr/written
blockdev --setrw /dev/mapper/slot  # the flag alone may be had; dm-verity refuses the write all the same
try dd if=/dev/zero of=/dev/mapper/slot bs=4096 count=1 seek=3 conv=fsync
echo end
sync
"""
WRITER_UNIT = """[Unit]
Description=Tries to write to the verified root
RequiresMountsFor=/var
[Service]
Type=oneshot
ExecStart=/usr/libexec/write-to-root
[Install]
WantedBy=multi-user.target
"""
FILES = {"usr/libexec/write-to-root": WRITER, "usr/lib/systemd/system/write-to-root.service": WRITER_UNIT}
pytestmark = [needs_virtual_machine(), pytest.mark.long, pytest.mark.timeout(3600)]


def _release(version: str) -> VerifiedSlot:
    release = SystemRelease(version, files=FILES, enable=("write-to-root.service",))
    return verified_slot(release, COMMAND_LINE)


def _machine(first: VerifiedSlot, site: Site, tmp_path: Path) -> VirtualMachine:
    esp = unified_esp(tmp_path / "esp.img", first.image)
    return make_machine(tmp_path / "vm", first.system, port=site.port, slots=SLOTS, esp=esp, more=partitions(first))


def test_verified_update(scenario: StartRow, site: Site, tmp_path: Path) -> None:
    """A verified slot is updated to another one, root, hash tree and kernel as one, and no write changes either."""
    row = scenario(TIER, "update from verified A to verified B")
    first, second = _release("1.0.0"), _release("2.0.0")
    site.offer(second.system, "2.0.0", old=first.system, make_verity=True, uki=second.image)
    machine = _machine(first, site, tmp_path)
    firmware = Uefi.fresh(tmp_path / "variables")
    with machine.start(firmware) as guest:
        guest.wait_off("reboot into the new release")
    row.booted("A")
    assert machine.disk.esp_names(IMAGES) == ["slot-a.efi", "slot-b+3.efi"]
    assert machine.disk.digest("USR-B") == digest_of(second.system.image)
    tree_bytes = second.tree.stat().st_size
    assert machine.disk.digest(LABELS[1], tree_bytes) == digest_of(second.tree)
    with machine.start(firmware) as guest:
        guest.wait_for(lambda: machine.disk.esp_names(IMAGES) == ["slot-a.efi", "slot-b.efi"], "blessing on the disk")
        guest.wait_for(lambda: "end\n" in (machine.var(ATTEMPTS) or ""), "attempts to write", every=3.0)
    row.booted("B")
    attempts = machine.var(ATTEMPTS) or ""
    assert attempts.count("refused: ") == 4, attempts
    assert "DONE" not in attempts, attempts
    assert machine.disk.digest("USR-A") == digest_of(first.system.image)
    assert machine.disk.digest("USR-B") == digest_of(second.system.image)
    assert machine.disk.esp_file(f"{IMAGES}/slot-b.efi") == second.image.read_bytes()


def test_corrupted_block_is_refused(scenario: StartRow, site: Site, tmp_path: Path) -> None:
    """With one bit of the new slot's first process flipped on the disk the kernel refuses it, and slot A comes back."""
    row = scenario(TIER, "flipped bit in B refused, back to A")
    first, second = _release("1.0.0"), _release("2.0.0")
    site.offer(second.system, "2.0.0", old=first.system, make_verity=True, uki=second.image)
    machine = _machine(first, site, tmp_path)
    firmware = Uefi.fresh(tmp_path / "variables")
    with machine.start(firmware) as guest:
        guest.wait_off("reboot into the new release")
    row.booted("A")
    _flip(machine, "USR-B", "/usr/lib/systemd/systemd")
    for name in ("slot-b+2-1.efi", "slot-b+1-2.efi", "slot-b+0-3.efi"):
        with machine.start(firmware) as guest:
            guest.wait_off("panic")
        row.booted(None)
        assert "is corrupted" in guest.said(), "the kernel says which block"
        assert machine.disk.esp_names(IMAGES) == ["slot-a.efi", name]
    with machine.start(firmware) as guest:
        guest.wait_for(site.rollbacks, "report of the rollback")
    row.booted("A")


def _flip(machine: VirtualMachine, label: str, name: str) -> None:
    """Flip a bit in the first block of a file in a slot."""
    offset, _size = machine.disk.places[label]
    block = int(output("debugfs", "-R", f"bmap {name} 0", f"{machine.disk.path}?offset={offset}").split()[-1])
    with machine.disk.path.open("r+b") as disk:
        disk.seek(offset + block * 4096 + 2000)
        (byte,) = disk.read(1)
        disk.seek(-1, 1)
        disk.write(bytes([byte ^ 1]))
