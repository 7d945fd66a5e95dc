"""A disk image as the kernel's block devices: a loop device, and a real partition device for each table entry."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
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
            # a run that was killed may have left its partitions on this device, which it no longer is a disk of
            self._forget_partitions()
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


class PartCopied:
    """A copy of the files of a partition, of a disk that nobody uses; a context that gives the copy's path."""

    def __init__(self, disk: Path, label: str, folder: Path) -> None:
        """Take a disk image, the partition's label, and a folder that the copy may be in."""
        self._disk, self._label, self._folder = disk, label, folder

    def __enter__(self) -> Path:
        devices = LoopDisk(self._disk)
        self._copy = tempfile.TemporaryDirectory(dir=self._folder)
        point, target = Path(self._copy.name, "mounted"), Path(self._copy.name, "copied")
        try:
            point.mkdir()
            # in a mount namespace of its own, so that nobody else's copy of the mount keeps the disk busy
            script = 'mount "$0" "$1" && cp -a "$1" "$2" && umount "$1"'
            run("unshare", "--mount", "sh", "-c", script, str(devices.parts[self._label]), str(point), str(target))
        except BaseException:
            self._copy.cleanup()
            raise
        finally:
            devices.detach()
        return target

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._copy.cleanup()


def run(*argv: str) -> str:
    """Run a program of the system and return its output; what it said is in the error when it fails."""
    done = subprocess.run(list(argv), env=ENV, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(argv)}: exit code {done.returncode}\n{done.stderr}{done.stdout}"
    return done.stdout
