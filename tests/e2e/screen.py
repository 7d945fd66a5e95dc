"""`make image` and `make vm`: a disk image with two slots and a boot loader, and that machine on a person's screen.

The machine is the one that the tests boot: Debian, the product as `make install` leaves it, the shipped units, OVMF
and systemd-boot, which alone pick the slot. What differs is for the person who looks: the daemons' journal comes to the
console, and root may log in without a password. The machine's update server is this host's, on QEMU's user network.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from fixtures.image.esp import systemd_boot_esp
from fixtures.image.machine import SystemSlot, machine_slot
from fixtures.image.slot import SystemRelease
from fixtures.image.system import keys
from tests.support.vm.machine import PRODUCT, VirtualMachine, make_machine
from tests.support.vm.qemu import HOST, OVMF_CODE, OVMF_VARS, Hardware, Uefi, has_kvm, show
from tests.support.vm.site import serving

OUT = Path(__file__).parents[2] / "image-out"
FIRST, SECOND = "1.0.0", "1.1.0"
PORT = 8080  # of the update server that an image of `make image` asks
COMMAND_LINE = (
    "console=ttyS0 ro rootwait gpt panic=10 oops=panic quiet net.ifnames=0 mitigations=off nokaslr no_timer_check"
    " tsc=reliable systemd.show_status=0"
)
STORY = """[Unit]
Description=Shows on the console what the update agent and the reboot coordinator say
After=systemd-journald.service

[Service]
ExecStart=/usr/bin/journalctl -f -b -n all -u updated -u lockd --output=short-monotonic --no-hostname
StandardOutput=tty
TTYPath=/dev/console
Restart=always

[Install]
WantedBy=multi-user.target
"""
GREETING = """
This machine runs release {version}. Log in as root, without a password. Try:
    update-ctl status      update-ctl explain      update-ctl slots      update-ctl history
"""
BEFORE = f"""
The machine starts with release {FIRST} in slot A; {SECOND} is waiting on this host's update server. What you will see,
in the lines of updated and lockd:
    1. updated finds {SECOND}, fetches it, writes slot B, reads it back, and gives slot B three tries;
    2. lockd reboots the machine, as nothing holds it back;
    3. systemd-boot boots slot B, the health gate finds it good, updated confirms it: nothing is left to do.
Log in as root, without a password, and look: update-ctl status, update-ctl explain, update-ctl slots.
Ctrl-A X (in this terminal) ends the machine; `poll_interval_secs` is 20 s, so whatever you publish comes soon.
"""


def system(version: str) -> SystemSlot:
    """Return a release for people to look at; its kernel is on the ESP."""
    greeting = GREETING.format(version=version)
    files = {"usr/lib/systemd/system/story.service": STORY, "etc/motd": greeting, "etc/issue": greeting}
    return machine_slot(SystemRelease(version, files=files, enable=("story.service",)), bare=True)


def machine(folder: Path, first: SystemSlot, port: int) -> VirtualMachine:
    """Make a machine with systemd-boot that runs `first` from slot A."""
    options = f"root=PARTLABEL=USR-A {COMMAND_LINE}"
    esp = systemd_boot_esp(folder.parent / "esp.img", first.kernel.image, options, version=FIRST)
    try:
        return make_machine(folder, first, port=port, slots='boot_loader = "systemd-boot"', esp=esp)
    finally:
        esp.unlink()


def make_image() -> int:
    """Write image-out/disk.img, and say what it is."""
    say(f"making release {FIRST}: Debian's packages, then this checkout's `make install` (cached from then on)")
    first = system(FIRST)
    _fresh(OUT)
    made = machine(OUT / "machine", first, PORT)
    disk = OUT / "disk.img"
    made.disk.path.rename(disk)
    shutil.rmtree(made.folder)
    shutil.copy(OVMF_VARS, OUT / "firmware.fd")
    say(f"{disk}: {disk.stat().st_size >> 20} MiB, of which {_used(disk) >> 20} are on the disk")
    accelerator = "-accel kvm -cpu host" if has_kvm() else "-accel tcg -cpu max"
    print(f"""
partitions   ESP (systemd-boot, the kernel), USR-A (release {FIRST}), USR-B (empty), VAR
asks         http://{HOST}:{PORT}/v1/update/ for the product {PRODUCT}: this host, from a virtual machine of QEMU's
trusts       {keys() / "public.pem"}; private.pem beside it signs
boots        by any UEFI firmware from an NVMe disk, for example:

    qemu-system-x86_64 -machine q35 -m 768 {accelerator} \\
        -drive if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE} \\
        -drive if=pflash,format=raw,unit=1,file={OUT / "firmware.fd"} \\
        -drive if=none,id=disk,format=raw,file={disk} -device nvme,drive=disk,serial=disk \\
        -nic user,model=virtio-net-pci -nographic

docs/image-integration.md, section 6, makes and serves its next release.
`make vm` boots such a machine with an update waiting.""")
    return 0


def run_vm() -> int:
    """Boot a machine with an update waiting on a person's screen; afterwards tell what its disk says."""
    say(f"making releases {FIRST} and {SECOND}: Debian's packages, then this checkout's `make install` (cached)")
    first, second = system(FIRST), system(SECOND)
    folder = OUT / "vm"
    _fresh(folder)
    with serving(folder / "releases") as site:
        say(f"signing release {SECOND}, as a delta from {FIRST} with its kernel")
        payload = site.offer(second, SECOND, old=first, kernel=second.kernel.image)
        say(f"{payload.name}: {payload.stat().st_size >> 20} MiB, served on this host's loopback, port {site.port}")
        made = machine(folder / "machine", first, site.port)
        firmware = Uefi.fresh(folder / "firmware.fd")
        kind = "KVM" if has_kvm() else "emulation, for this host has no KVM: about a minute to each boot"
        say(f"starting the machine ({kind})")
        print(BEFORE, flush=True)
        code = show(Hardware(made.disk.path, firmware, made.serial, restarts=True, attended=True))
    _tell(made)
    return code


def _tell(made: VirtualMachine) -> None:
    """Print what the disk says, read from outside."""
    entries = made.disk.esp_names("loader/entries")
    print("\nWhat the disk says now:")
    print(f"    boot entries   {', '.join(entries)}")
    print(f"    slot B         {'written' if _holds(made, 'USR-B') else 'empty'}")
    proven = "slot-b.conf" in entries
    print(f"    verdict        {f'{SECOND} boots from slot B and is confirmed' if proven else 'not confirmed yet'}")


def _holds(made: VirtualMachine, label: str) -> bool:
    offset, _ = made.disk.places[label]
    with made.disk.path.open("rb") as disk:
        disk.seek(offset + 1024)
        return any(disk.read(1024))  # an ext4's superblock


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _used(path: Path) -> int:
    return path.stat().st_blocks * 512


BEGAN = time.monotonic()


def say(text: str) -> None:
    """Begin a step."""
    print(f"[{time.monotonic() - BEGAN:5.1f} s] {text}", flush=True)


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("image", "vm"))
    what = parser.parse_args().what
    if os.geteuid() != 0:
        print(
            f"error: make {what} takes roots of Debian apart, and needs root for that: sudo make {what}",
            file=sys.stderr,
        )
        return 1
    return make_image() if what == "image" else run_vm()


if __name__ == "__main__":
    sys.exit(main())
