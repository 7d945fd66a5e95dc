"""A disk image as the kernel's block devices: a loop device, and a real partition device for each table entry."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from types import TracebackType

from tests.support.disks import ENV
from tests.support.processes import wait_for

SYSFS = Path("/sys/class/block")


class LoopDisk:
    """One attached image. `whole` is the disk's node, `parts` the partitions' nodes by label."""

    def __init__(self, image: Path) -> None:
        self._made: list[Path] = []  # nodes that this machine's /dev didn't make by itself
        found = run("losetup", "--find").strip()  # before it is asked for: a container's /dev may lack the node
        self._node(Path(found), (7, int(found.removeprefix("/dev/loop"))))
        self.whole = Path(run("losetup", "--find", "--show", str(image)).strip())
        self.parts: dict[str, Path] = {}
        try:
            # the kernel may have been built without support of GPT; partx reads the table and tells it
            run("partx", "--add", str(self.whole))
            for line in run("partx", "--raw", "--noheadings", "--output", "NR,NAME", str(self.whole)).splitlines():
                number, label = line.split(maxsplit=1)
                name = f"{self.whole.name}p{number}"
                major, minor = (SYSFS / name / "dev").read_text().split(":")
                self.parts[label] = self._node(Path("/dev") / name, (int(major), int(minor)))
        except BaseException:
            self.detach()
            raise

    def _node(self, path: Path, number: tuple[int, int]) -> Path:
        if not path.exists():
            os.mknod(path, 0o660 | stat.S_IFBLK, os.makedev(*number))
            self._made.append(path)
        return path

    def detach(self) -> None:
        """Take the devices away; the image is whole again. Waits until nobody has them open any more."""
        wait_for(self._forget_partitions, f"end of all use of {self.whole}")
        run("losetup", "--detach", str(self.whole))
        for path in self._made:
            path.unlink()
        self._made.clear()

    def _forget_partitions(self) -> bool:
        """Remove the partitions; false while one is busy, as it can be for a moment after a boot."""
        left = [path.name for path in SYSFS.glob(f"{self.whole.name}p*")]
        for name in left:
            number = name.removeprefix(f"{self.whole.name}p")
            subprocess.run(["delpart", str(self.whole), number], env=ENV, check=False, capture_output=True)
        return not any(SYSFS.glob(f"{self.whole.name}p*"))


class PartMounted:
    """A partition of a disk image that nobody uses, mounted for as long as the context lasts; gives the path."""

    def __init__(self, disk: Path, label: str, point: Path) -> None:
        self._disk, self._label, self._point = disk, label, point

    def __enter__(self) -> Path:
        self._devices = LoopDisk(self._disk)
        try:
            self._point.mkdir(exist_ok=True)
            run("mount", str(self._devices.parts[self._label]), str(self._point))
        except BaseException:
            self._devices.detach()
            raise
        return self._point

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wait_for(lambda: unmount(self._point), f"end of all use of {self._point}")
        self._devices.detach()


def unmount(path: Path) -> bool:
    """Unmount what is mounted there; false if it is busy."""
    return subprocess.run(["umount", str(path)], env=ENV, check=False, capture_output=True).returncode == 0


def run(*argv: str) -> str:
    """Run a program of the system and return its output; what it said is in the error when it fails."""
    done = subprocess.run(list(argv), env=ENV, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(argv)}: exit code {done.returncode}\n{done.stderr}{done.stdout}"
    return done.stdout
