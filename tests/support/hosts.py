"""A made-up host for tests: the kernel's files about mounts, devices and the boot, in a folder."""

from __future__ import annotations

from pathlib import Path

from updated.slots.layout import HostPaths


class FakeHost:
    """Builds sysfs as the kernel lays it out: devices below devices/, found by links of two kinds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sys/dev/block", "sys/class/block", "sys/devices", "root", "dev"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.paths = HostPaths(
            cmdline=folder / "cmdline",
            mountinfo=folder / "mountinfo",
            sysfs=folder / "sys",
            root=folder / "root",
            dev=folder / "dev",
        )
        self.paths.cmdline.write_text("quiet\n")
        self.paths.mountinfo.write_text("")

    def boot(self, cmdline: str) -> FakeHost:
        """Set the kernel command line."""
        self.paths.cmdline.write_text(cmdline + "\n")
        return self

    def mount(self, source: str, point: str, number: str = "0:99") -> FakeHost:
        """Add a line to mountinfo."""
        with self.paths.mountinfo.open("a") as file:
            file.write(f"36 35 {number} / {point} ro,relatime shared:1 - ext4 {source} ro\n")
        return self

    def disk(self, name: str, number: str) -> Path:
        """Add a whole disk."""
        return self._device(self.paths.sysfs / "devices" / name, number)

    def partition(self, disk: Path, index: int, number: str, *, place: range | None = None, uevent: str = "") -> Path:
        """Add a partition; `place` in bytes."""
        separator = "p" if disk.name[-1].isdigit() else ""
        part = self._device(disk / f"{disk.name}{separator}{index}", number)
        (part / "partition").write_text(f"{index}\n")
        (part / "uevent").write_text(f"DEVTYPE=partition\nPARTN={index}\n{uevent}\n")
        place = place or range(0)
        (part / "start").write_text(f"{place.start // 512}\n")
        (part / "size").write_text(f"{len(place) // 512}\n")
        return part

    def mapper(self, name: str, number: str, *below: Path) -> Path:
        """Add a device-mapper (or md) device on others."""
        device = self.disk(name, number)
        (device / "slaves").mkdir()
        for lower in below:
            (device / "slaves" / lower.name).symlink_to(lower)
            (lower / "holders").mkdir(exist_ok=True)
            (lower / "holders" / name).symlink_to(device)
        return device

    def loop(self, name: str, number: str, backing: Path, *, begin: int, size: int) -> Path:
        """Add a loop device on a part of a file."""
        device = self.disk(name, number)
        (device / "size").write_text(f"{size // 512}\n")
        (device / "loop").mkdir()
        (device / "loop/backing_file").write_text(f"{backing}\n")
        (device / "loop/offset").write_text(f"{begin}\n")
        return device

    def _device(self, folder: Path, number: str) -> Path:
        folder.mkdir()
        (folder / "dev").write_text(f"{number}\n")
        (self.paths.sysfs / "dev/block" / number).symlink_to(folder)
        (self.paths.sysfs / "class/block" / folder.name).symlink_to(folder)
        return folder
