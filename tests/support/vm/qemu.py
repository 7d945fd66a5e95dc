"""One virtual machine: QEMU with a disk in a file and its serial line in a log, ended by its own process id.

While it runs, its disk may be read from outside, and must not be written. KVM is used only where it is a real one:
/dev/kvm may be there without the processor's virtualisation (in paravirtual hosts), and then guests never start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")
HOST = "10.0.2.2"  # this machine, as a guest on QEMU's user network sees it
MEMORY_MIB = 768  # the shipped units' MemoryMax=512M must be something that can be had
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
TCG = "tcg,thread=single,tb-size=256"
# The guest's clock counts its instructions (4 ns each) while it computes, and runs on while it waits. So a host that is
# busy with other things makes nothing in the guest late: neither systemd's timeouts nor the health gate's deadline.
PACE = "shift=2,sleep=on"
QUIET_SECS = 600.0  # twice the health gate's deadline: a machine that changes nothing for so long hangs


class MachineHangsError(AssertionError):
    """A machine used up its processor time, or stood still, before what was waited for came."""


@dataclass(frozen=True)
class DirectBoot:
    """What QEMU itself loads, where the harness is the firmware."""

    kernel: Path
    command_line: str
    initrd: Path | None = None

    def arguments(self) -> list[str]:
        """QEMU's arguments."""
        more = ["-initrd", str(self.initrd)] if self.initrd else []
        return ["-kernel", str(self.kernel), "-append", self.command_line, *more]


@dataclass(frozen=True)
class Uefi:
    """OVMF; `variables` is this machine's own copy of the firmware's variables."""

    variables: Path

    @classmethod
    def fresh(cls, variables: Path) -> Uefi:
        """Make a firmware with empty variables."""
        shutil.copyfile(OVMF_VARS, variables)
        return cls(variables)

    def arguments(self) -> list[str]:
        """QEMU's arguments."""
        return [
            *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"),
            *("-drive", f"if=pflash,format=raw,unit=1,file={self.variables}"),
        ]


@dataclass(frozen=True)
class Bios:
    """SeaBIOS, which starts what is in the disk's first sector."""

    def arguments(self) -> list[str]:
        """QEMU's arguments: the disk is the only thing that it may start."""
        return ["-boot", "strict=on"]


Firmware = DirectBoot | Uefi | Bios


@dataclass(frozen=True)
class Hardware:
    """A machine before it is switched on.

    Attributes:
        disk: the file that is its NVMe disk.
        firmware: what starts it.
        serial: the file that its serial line goes to; appended to.
        write_log: where to record each write to the disk, in the form that writelog.py reads; none: not at all.
        restarts: whether a reboot of the guest starts it again; else QEMU ends.
        memory_mib: its memory.
        attended: a person looks at it: a window where this host has a display and QEMU can open one, else the serial
            line on this terminal (Ctrl-A X ends it).
        extra: further arguments.
    """

    disk: Path
    firmware: Firmware
    serial: Path
    write_log: Path | None = None
    restarts: bool = False
    memory_mib: int = MEMORY_MIB
    attended: bool = False
    extra: tuple[str, ...] = field(default_factory=tuple)

    def command(self) -> list[str]:
        """Return the command line; the machine dies with the process that started it."""
        return [
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults"),
            *("-machine", "q35", "-m", str(self.memory_mib), "-smp", "1", *_accelerator()),
            *self._console(),
            *([] if self.restarts else ["-no-reboot"]),
            *self._disk_arguments(),
            *("-device", "nvme,drive=disk,serial=disk,bootindex=1"),
            *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
            *self.firmware.arguments(),
            *self.extra,
        ]

    def _console(self) -> list[str]:
        if not self.attended:
            log = f"file,id=serial,path={self.serial},append=on"
            return ["-display", "none", "-monitor", "none", "-chardev", log, "-serial", "chardev:serial"]
        screen = ["-display", "gtk", "-device", "VGA"] if _has_window() else ["-display", "none"]
        return [*screen, "-serial", "mon:stdio"]

    def _disk_arguments(self) -> list[str]:
        file = f"driver=file,filename={self.disk},node-name=file"
        if self.write_log is None:
            return ["-blockdev", file, "-blockdev", "driver=raw,file=file,node-name=disk"]
        recorder = "driver=blklogwrites,file=file,log=log,log-sector-size=512,node-name=disk"
        log = f"driver=file,filename={self.write_log},node-name=log"
        return ["-blockdev", file, "-blockdev", log, "-blockdev", recorder]


class Guest:
    """A machine that was switched on."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        hardware.serial.touch()
        if hardware.write_log is not None:
            hardware.write_log.touch()
        self._said_before = hardware.serial.stat().st_size
        self._errors = hardware.serial.with_suffix(".qemu")
        self._process = start(hardware.command(), self._errors)
        self._moved = time.monotonic()
        self._state: object = None

    def processor_secs(self) -> float:
        """How much processor time it has used; 0 once it has ended."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self) -> str:
        """What came over the serial line since it was switched on; for people, never for a verdict."""
        with self.hardware.serial.open("rb") as file:
            file.seek(self._said_before)
            return file.read().decode("utf-8", "replace")

    def running(self) -> bool:
        """Whether it is on."""
        return self._process.poll() is None

    def wait_off(self, what: str, budget_secs: float = 600.0) -> None:
        """Wait until the machine has switched itself off, or rebooted where `restarts` isn't set.

        Raises:
            MachineHangsError: see `wait_for`.
        """
        self.wait_for(lambda: not self.running(), what, budget_secs, may_end=True)
        code = self._process.wait()
        assert code == 0, f"QEMU ended with {code}: {self._errors.read_text()[-2000:]}"

    def wait_for(
        self, look: Callable[[], T], what: str, budget_secs: float = 600.0, *, may_end: bool = False, every: float = 0.1
    ) -> T:
        """Wait until `look` returns something; how busy this host is doesn't matter.

        Args:
            look: is called again and again.
            what: what is waited for, for the message.
            budget_secs: of the guest's processor time.
            may_end: whether the machine may switch itself off meanwhile.
            every: seconds between two looks; more for one that is dear.

        Raises:
            MachineHangsError: the guest used that much, or neither wrote nor said anything for QUIET_SECS.
        """
        while True:
            found = look()
            if found:
                return found
            if not self.running() and not may_end:
                raise MachineHangsError(f"the machine ended before {what}:\n{self._tail()}")
            used = self.processor_secs()
            if used > budget_secs:
                raise MachineHangsError(f"no {what} in {used:.0f} s of processor time:\n{self._tail()}")
            if self._quiet_secs() > QUIET_SECS:
                raise MachineHangsError(f"no {what}, and nothing else for {QUIET_SECS:.0f} s:\n{self._tail()}")
            time.sleep(every)

    def cut_power(self) -> None:
        """End it at once.

        What the guest had written reaches the disk's file all the same: for a cut that loses what wasn't flushed,
        record the writes and replay them.
        """
        if self.running():
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()

    def _quiet_secs(self) -> float:
        disk = self.hardware.disk.stat()
        state = (disk.st_mtime_ns, self.hardware.serial.stat().st_size)
        if state != self._state:
            self._state, self._moved = state, time.monotonic()
        return time.monotonic() - self._moved

    def _tail(self) -> str:
        return self.said()[-4000:] + self._errors.read_text()[-1000:]


def show(hardware: Hardware) -> int:
    """Run a machine for a person until it is switched off; return QEMU's exit code."""
    return subprocess.run(hardware.command(), check=False).returncode


def _has_window() -> bool:
    """Whether there is a display, and a QEMU that has the module for it (Debian's qemu-system-gui)."""
    if not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        return False
    listed = subprocess.run(["qemu-system-x86_64", "-display", "help"], capture_output=True, text=True, check=True)
    return "gtk" in listed.stdout.split()


def start(command: Sequence[str], errors: Path) -> subprocess.Popen[bytes]:
    """Start QEMU with its own messages in a file."""
    with errors.open("ab") as file:
        return subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def has_kvm(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this host has a virtualisation that works, not just its device."""
    if not os.access(device, os.R_OK | os.W_OK):
        return False
    flags = set(cpuinfo.read_text().split())
    return bool(flags & {"vmx", "svm"})


def _accelerator() -> list[str]:
    return ["-accel", "kvm", "-cpu", "host"] if has_kvm() else ["-accel", TCG, "-cpu", "max", "-icount", PACE]
