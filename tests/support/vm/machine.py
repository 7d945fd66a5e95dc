"""A virtual machine of the tests: its disk, what starts it, and the update server on this host's loopback."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fixtures.image.disk import DiskPart, two_slots, write_disk
from fixtures.image.esp import empty_esp
from fixtures.image.machine import MACHINE_DIR, SystemSlot, var_image
from tests.support.bootloader import Choice, boot
from tests.support.vm.disk import MachineDisk
from tests.support.vm.qemu import HOST, DirectBoot, Firmware, Guest, Hardware

PRODUCT = "org.example.machine"
# gpt: with a damaged primary copy of the table the kernel takes the backup
COMMAND_LINE = (
    "console=ttyS0 ro rootwait gpt panic=1 oops=panic quiet net.ifnames=0 mitigations=off nokaslr no_timer_check"
    " tsc=reliable"
    " systemd.show_status=0 systemd.journald.forward_to_console=1"
    " systemd.journald.max_level_console=warning"
)
UPDATED_TOML = """
[server]
url = "http://{host}:{port}/v1/update/"
product = "{product}"
initial_delay_secs = 1.0
poll_interval_secs = 20.0
[slots]
{slots}
"""
LOCKD_TOML = 'strategy = "local"\n'


@dataclass
class VirtualMachine:
    """A machine with a folder of its own; `firmware` is asked before each start.

    Attributes:
        folder: holds all that it has.
        disk: its disk.
        starts: how often it was started.
    """

    folder: Path
    disk: MachineDisk
    starts: int = field(default=0)

    @property
    def serial(self) -> Path:
        """The log of its serial line, of all boots."""
        return self.folder / "serial.log"

    @property
    def scratch(self) -> Path:
        """Where parts of the disk are looked at."""
        return self.folder / "scratch"

    def start(self, firmware: Firmware, *, write_log: Path | None = None, restarts: bool = False) -> Guest:
        """Switch it on."""
        self.starts += 1
        return Guest(Hardware(self.disk.path, firmware, self.serial, write_log=write_log, restarts=restarts))

    def boot_gptprio(self, *, write_log: Path | None = None, more: str = "") -> tuple[Choice, Guest]:
        """Be the firmware: pick a slot by its attribute bits, take a try off it, start the kernel that lies in it."""
        choice = boot(self.disk.path)
        kernel = self.disk.file_in_slot(choice.label, "/vmlinuz", self.folder / f"vmlinuz-{choice.label}")
        line = f"root=PARTUUID={choice.partuuid} {COMMAND_LINE} {more}".strip()
        return choice, self.start(DirectBoot(kernel, line), write_log=write_log)

    def var(self, name: str) -> str | None:
        """Return a file of /var as it is on the disk now."""
        return self.disk.var_file(name, self.scratch)

    def discard(self) -> None:
        """Remove its files: a campaign has fifty disks."""
        shutil.rmtree(self.folder)

    def last_entries(self) -> str:
        """Return the end of its journal, for the reader of a failure."""
        return self.disk.journal(self.scratch)[-6000:]


def make_machine(
    folder: Path,
    slot: SystemSlot,
    *,
    port: int,
    slots: str = "",
    more: Sequence[DiskPart] = (),
    esp: Path | None = None,
) -> VirtualMachine:
    """Make a machine whose slot A holds `slot`, as a factory leaves it.

    Args:
        folder: for its files; made.
        slot: what slot A holds.
        port: of the update server on this host's loopback.
        slots: further lines of the table [slots] of updated.toml.
        more: partitions in front of the usual ones.
        esp: the image of the ESP.
    """
    folder.mkdir(parents=True)
    settings = {
        f"{MACHINE_DIR}/updated.toml": UPDATED_TOML.format(host=HOST, port=port, product=PRODUCT, slots=slots),
        f"{MACHINE_DIR}/lockd.toml": LOCKD_TOML,
    }
    esp = esp or empty_esp(folder / "esp.img")
    var = var_image({name.removeprefix("var/"): text for name, text in settings.items()}, folder / "var.img")
    parts = [*more, *two_slots(slot.image, var, esp=esp, esp_bytes=esp.stat().st_size)]
    places = write_disk(folder / "disk.img", parts)
    var.unlink()
    return VirtualMachine(folder, MachineDisk(folder / "disk.img", places))
