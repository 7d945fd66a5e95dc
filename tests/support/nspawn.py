"""A machine with a real systemd as its first process: a disk image with two slots, booted by systemd-nspawn.

The slot's partition is mounted read-only as the root, the disk and its partitions are real block devices, /var is a
partition of its own, /etc is the image's with a writable layer that lies in /var. A reboot ends systemd-nspawn with
exit code 133; then the boot loader model (`tests.support.bootloader`) picks the next slot from the bits on the disk.

What differs from a machine is in `tests.support.nspawn_limits`. Nothing else of what ships is switched off.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fixtures.image.disk import two_slots, write_disk
from fixtures.image.slot import var_image
from tests.support import nspawn_launch
from tests.support.bootloader import Choice, Copy, boot, valid_copies
from tests.support.control_group import ControlGroup
from tests.support.disks import ENV
from tests.support.loop_disk import LoopDisk, PartCopied, run
from tests.support.nspawn_limits import LIMITS, own_surroundings
from tests.support.processes import Process, wait_for

REBOOT_CODE = 133  # systemd-nspawn's exit code when the container asked for a reboot
MIB = 1024 * 1024
BOOT_SECS = 120.0
LAYER = "lib/overlay/etc"  # of /var: the writable layer of /etc


class NspawnHost:
    """One machine; a context manager that leaves no process, mount or loop device behind.

    Attributes:
        folder: everything that it has; `disk` is its disk image.
        leader: the process id of its systemd, while it runs.
        boots: the slots that the boot loader picked, one a boot.
    """

    def __init__(self, folder: Path, first: Path, *, var: Path | None = None, read_only_etc: bool = False) -> None:
        """Take a folder of its own, the image of slot A, that of the first /var, and whether /etc may be written."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.disk = folder, folder / "disk.img"
        self.machine_id = uuid.uuid4().hex
        self.boots: list[str] = []
        self._overlay = "--overlay-ro" if read_only_etc else "--overlay"
        self.leader = 0
        self._pending: dict[str, str] = {"machine-id": f"{self.machine_id}\n"}
        for limit in LIMITS:
            self._pending |= limit.files
        self._devices: LoopDisk | None = None
        self._group: ControlGroup | None = None
        self._child: Process | None = None
        self._others: list[Process] = []
        write_disk(self.disk, two_slots(first, var or var_image()))
        self._lock = self.disk.open("rb")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two machines on one disk would ruin both

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._lock.close()

    # -- its settings

    def write(self, path: str, text: str) -> None:
        """Write a file below /etc, as `updated/conf.d/50-test.toml`: at once if it runs, else at the next boot."""
        if self._child is None:
            self._pending[path] = text
            return
        self.run("mkdir", "-p", str(Path("/etc", path).parent))
        self.run("tee", f"/etc/{path}", stdin=text)

    def drop_in(self, unit: str, text: str, name: str = "50-test.conf") -> None:
        """Write a drop-in of a unit, as `updated.service`."""
        self.write(f"systemd/system/{unit}.d/{name}", text)
        if self._child is not None:
            self.run("systemctl", "daemon-reload")

    # -- its life

    def boot(self, *, wait: bool = True) -> Choice:
        """Let the boot loader pick a slot, start its system, and wait until it has started (unless told not to).

        Raises:
            NothingBootableError: the machine is a brick.
        """
        assert self._child is None, "it runs"
        choice = boot(self.disk)
        self.boots.append(choice.label)
        try:
            self._start(choice)
            if wait:
                self.wait_started()
        except BaseException:
            self.cut()
            raise
        return choice

    def boot_dead(self) -> Choice:
        """Let the boot loader pick a slot whose system ends at once without a word, as after a kernel's panic."""
        assert self._child is None, "it runs"
        choice = boot(self.disk)
        self.boots.append(choice.label)
        try:
            self._start(choice, lives=False)
            assert self.wait_end() != REBOOT_CODE
        finally:
            self.cut()
        return choice

    def wait_started(self) -> str:
        """Wait until systemd has nothing left to start; return its word for that, `ended` if the machine has ended."""

        def look() -> str | None:
            if self._ended():
                return "ended"  # a bad release may be given up before all of it has started
            done = self.run("systemctl", "is-system-running", check=False)
            state = done.stdout.strip()
            return state if state in ("running", "degraded", "maintenance") else None

        return wait_for(look, "end of the boot", secs=BOOT_SECS)

    def wait_end(self, secs: float = BOOT_SECS) -> int:
        """Wait until the container has ended by itself, let its disk go; return the exit code (REBOOT_CODE, or 0)."""
        child = self._running().child
        wait_for(lambda: self._ended() or self._wake_helpers(), "end of the machine", secs=secs)
        self.cut()
        return int(child.returncode)

    def wait_reboot(self, secs: float = BOOT_SECS, *, wait: bool = True) -> Choice:
        """Wait until the machine reboots by itself; return the slot that the boot loader picked for the next boot."""
        code = self.wait_end(secs)
        assert code == REBOOT_CODE, f"exit code {code}, not {REBOOT_CODE}\n{self.console()[-3000:]}"
        return self.boot(wait=wait)

    def shut_down(self, verb: str = "poweroff") -> int:
        """Shut it down in order, by `systemctl`; return the exit code."""
        self.run("systemctl", "--no-block", verb)
        return self.wait_end()

    def cut(self) -> None:
        """End everything of it at once, as a power cut does as far as processes are concerned; nothing if it is off."""
        if self._child is not None and self._child.child.poll() is None and self.leader:
            os.kill(self.leader, signal.SIGKILL)  # and with it all of its processes; systemd-nspawn then ends by itself
            wait_for(lambda: self._ended() or self._wake_helpers(), f"end of {self._child.child.args!r}")
        for process in (*self._others, *([self._child] if self._child else [])):
            process.kill()
        self._others.clear()
        self._child, self.leader = None, 0
        if self._group is not None:
            self._group.remove()
            self._group = None
        if self._devices is not None:
            self._devices.detach()
            self._devices = None

    # -- commands in it

    def run(
        self, *argv: str, check: bool = True, stdin: str | None = None, user: str | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root or as `user`, to its end."""
        done = subprocess.run(
            self._inside(argv, user), input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
            stdin=subprocess.DEVNULL if stdin is None else None,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def pid_of(self, program: str) -> int:
        """Return the process id, as this machine has it, of the oldest process that runs a file of /usr/bin in it."""
        assert self._group is not None
        for pid in sorted(self._group.processes()):
            with suppress(FileNotFoundError, ProcessLookupError):
                if f"/usr/bin/{program}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        raise AssertionError(f"{program} doesn't run")

    def start(self, *argv: str, user: str | None = None) -> Process:
        """Start a command in it; its output goes to the process's log. It ends with the machine at the latest."""
        process = Process(self._inside(argv, user), self.folder / f"command-{len(self._others)}-{uuid.uuid4().hex}.log")
        self._others.append(process)
        return process

    def status(self) -> dict[str, Any]:
        """Return `update-ctl status --json`."""
        return dict(json.loads(self.run("update-ctl", "status", "--json").stdout))

    def wait_status(self, what: str, **wanted: Any) -> dict[str, Any]:
        """Wait until the agent answers and its status has all of `wanted`."""

        def look() -> dict[str, Any] | None:
            done = self.run("update-ctl", "status", "--json", check=False)
            status = json.loads(done.stdout) if done.returncode == 0 else {}
            return status if status and all(status[key] == value for key, value in wanted.items()) else None

        return wait_for(look, what, self._running())

    def wait_active(self, unit: str, state: str = "active") -> None:
        """Wait until a unit is active, or in another ActiveState."""
        look = lambda: self.run("systemctl", "is-active", unit, check=False).stdout.strip() == state  # noqa: E731
        wait_for(look, f"{unit} {state}", self._running())

    # -- what the disk says

    def bits(self) -> dict[str, Choice]:
        """Return the slots as the disk's partition table has them, by label; both its copies say the same."""
        first, second = ({slot.label: slot for slot in copy.slots()} for copy in self._copies())
        assert first == second, f"the copies of the partition table differ: {first} {second}"
        return first

    def eligible(self) -> set[str]:
        """Return the labels of the slots that either copy of the table lets boot, whoever writes it at this moment."""
        return {slot.label for copy in self._copies() for slot in copy.slots() if slot.may_boot}

    def _copies(self) -> list[Copy]:
        os.sync()  # what the loop device's page cache holds
        with self.disk.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return valid_copies(data)

    def slot_digest(self, label: str, size: int | None = None) -> str:
        """Return the SHA-256 of a slot's bytes on the disk (of the first `size`), hex."""
        os.sync()
        slot = next(slot for slot in self._copies()[0].slots() if slot.label == label)
        left, whole = slot.size if size is None else size, sha256()
        with self.disk.open("rb") as file:
            file.seek(slot.offset)
            while left:
                data = file.read(min(left, MIB))
                assert data
                whole.update(data)
                left -= len(data)
        return whole.hexdigest()

    def journal(self, *matches: str, boot: int | None = None) -> list[dict[str, Any]]:
        """Return the journal's entries, oldest first, read by journalctl from /var on the disk.

        Args:
            matches: options and fields as journalctl takes them, as `-u`, `updated.service`.
            boot: 0 for the newest boot, -1 for the one before; None for all.
        """
        chosen = [] if boot is None else ["--boot", str(boot)]
        command = ["journalctl", "--output=json", "--all", "--quiet", *chosen, *matches]
        if self._child is not None:
            self.run("journalctl", "--sync")
            return _entries(self.run(*command[:1], *command[1:]).stdout)
        with self.copied_var() as var:
            return _entries(run(*command, "--directory", str(var / "log/journal")))

    def messages(self, *matches: str, boot: int | None = None) -> str:
        """Return the journal's messages, one a line, `unit: message`."""
        rows = self.journal(*matches, boot=boot)
        return "\n".join(f"{row.get('_SYSTEMD_UNIT', '-')}: {row.get('MESSAGE')}" for row in rows)

    def console(self) -> str:
        """Return what was written to the console in all boots."""
        path = self.folder / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def copied_var(self) -> PartCopied:
        """Copy /var of a machine that is off: a context that gives the copy's path."""
        assert self._child is None
        return PartCopied(self.disk, "VAR", self.folder)

    # -- inner life

    def _running(self) -> Process:
        assert self._child is not None, "it doesn't run"
        return self._child

    def _inside(self, argv: Sequence[str], user: str | None) -> list[str]:
        assert self.leader, "it doesn't run"
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/", "TERM=dumb"]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        return ["nsenter", "--target", str(self.leader), "--all", *clean, *become, *argv]

    def _start(self, choice: Choice, *, lives: bool = True) -> None:
        self._devices = LoopDisk(self.disk)
        (self.folder / "boot-id").write_text(f"{uuid.uuid4()}\n")
        launch = self.folder / "launch.json"
        launch.write_text(json.dumps(self._launch(self._devices, choice)))
        self._pending.clear()
        self._group = ControlGroup(f"nspawn-{self.machine_id}")
        command = self._group.enter_first(
            [*own_surroundings(), sys.executable, "-I", nspawn_launch.__file__, str(launch)]
        )
        self._child = Process(command, self.folder / "console.log", {**ENV, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
        if lives:
            self.leader = wait_for(self._find_leader, "first process of the machine", self._child)

    def _launch(self, devices: LoopDisk, choice: Choice) -> dict[str, Any]:
        """Return what `nspawn_launch` is to mount, write and start."""
        root, var = self.folder / "root", self.folder / "var"
        nodes = [devices.whole, *devices.parts.values()]
        command = [
            "systemd-nspawn", "--quiet", f"--directory={root}", f"--machine=m{self.machine_id}",
            f"--uuid={self.machine_id}", "--register=no", "--keep-unit", "--boot", "--console=pipe",
            "--link-journal=no", "--resolv-conf=off", "--timezone=off", f"--bind={var}:/var",
            f"{self._overlay}=+/etc:{var}/{LAYER}:/etc", f"--bind-ro={self.folder}/boot-id:/run/boot-id",
            *(f"--bind={node}" for node in nodes), *(option for limit in LIMITS for option in limit.options),
        ]  # fmt: skip
        mounts = [(str(devices.parts[choice.label]), str(root), "ro"), (str(devices.parts["VAR"]), str(var), "rw")]
        return {
            "mounts": mounts,
            "lower": f"{root}/etc",
            "upper": f"{var}/{LAYER}",
            "files": self._pending,
            "command": command,
        }

    def _find_leader(self) -> int | None:
        """Return systemd's process: the one of the group that is the first of a process namespace of its own."""
        assert self._group is not None
        for pid in self._group.processes():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except FileNotFoundError:
                continue
            ids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            if ids[-1] == "1" and len(ids) > 1 and name == "systemd":
                return int(pid)
        return None

    def _ended(self) -> bool:
        return self._child is None or self._child.child.poll() is not None

    def _wake_helpers(self) -> bool:
        """Let commands go on that stopped with their child when systemd stopped all processes: they hold them."""
        for process in self._others:
            if process.child.poll() is None:
                process.child.send_signal(signal.SIGCONT)
        return False


def _entries(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
