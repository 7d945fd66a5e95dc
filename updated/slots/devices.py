"""Block devices as sysfs tells of them: what runs here, where a partition lies, who else has a slot open.

Formats after the kernel's Documentation/ABI/testing/sysfs-block and sysfs-class-block, mountinfo after proc(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from updated.slots.layout import HostPaths

RUNNING = ("/", "/usr")  # what a system runs from is mounted there
SECTOR = 512  # sysfs counts in these, whatever the medium's sectors are


def read_fact(path: Path) -> str:
    """Return what a file of the kernel says, stripped; nothing when there is no such file."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""  # it isn't there, or goes away while we look: whoever asks has another source


def device_folder(number: int, host: HostPaths) -> Path:
    """Return the sysfs folder of a block device by its number (`st_rdev`, `st_dev`); it may not exist."""
    return (host.sysfs / "dev/block" / f"{os.major(number)}:{os.minor(number)}").resolve()


def number_of(device: Path) -> str:
    """Return a device's `major:minor`, as mountinfo has it."""
    return read_fact(device / "dev")


def all_partitions(host: HostPaths) -> Iterator[Path]:
    """Return the sysfs folders of all partitions that the kernel knows."""
    return (node.resolve() for node in sorted((host.sysfs / "class/block").glob("*")) if is_partition(node))


def is_partition(device: Path) -> bool:
    """Tell a partition from a whole disk."""
    return (device / "partition").exists()


def running_devices(host: HostPaths) -> list[Path]:
    """Return the sysfs folders of the devices under / and /usr, device-mapper resolved to what is below it."""
    tops = [device_folder(mount.stat().st_dev, host) for mount in (host.root, host.root / "usr") if mount.exists()]
    tops += _mounted(host)
    return list(dict.fromkeys(leaf for top in tops if top.exists() for leaf in leaves(top)))


def _mounted(host: HostPaths) -> list[Path]:
    """Return what mountinfo has under / and /usr, by number and by name: btrfs has a number that no device has.

    Of an overlay it is what the read-only layers below are on.
    """
    found: list[Path] = []
    mounts = list(_mounts(host))
    for mount in mounts:
        if mount.point in RUNNING:
            for below in (mount, *_layers(mount, mounts)):
                found.append(host.sysfs / "dev/block" / below.number)
                if below.source.startswith("/dev/"):  # /dev/mapper/usr is a link
                    found.append(host.sysfs / "class/block" / Path(below.source).resolve().name)
    return found


@dataclass(frozen=True, slots=True)
class _Mount:
    """A line of mountinfo (proc(5))."""

    number: str
    point: str
    kind: str
    source: str
    options: str


def _mounts(host: HostPaths) -> Iterator[_Mount]:
    for fields in map(str.split, read_fact(host.mountinfo).splitlines()):
        after = fields[fields.index("-") + 1 :]
        yield _Mount(fields[2], fields[4], after[0], after[1], after[2] if len(after) > 2 else "")  # noqa: PLR2004


def _layers(mount: _Mount, mounts: Sequence[_Mount]) -> list[_Mount]:
    """Return the mounts that an overlay's lower directories are in, as far as they can be seen."""
    if mount.kind != "overlay":
        return []
    lower = [option.removeprefix("lowerdir=") for option in mount.options.split(",") if option.startswith("lowerdir=")]
    folders = [folder for folders in lower for folder in folders.split(":") if folder]
    found = []
    for folder in folders:
        above = [one for one in mounts if one.point != "/" and f"{folder}/".startswith(f"{one.point}/")]
        found += sorted(above, key=lambda one: len(one.point))[-1:]
    return found


def told_mounts(host: HostPaths) -> str:
    """Return what is mounted at / and /usr in words, for whoever reads that nothing of it is a slot."""
    told = {mount.point: f"{mount.point} is {mount.kind} of {mount.source}" for mount in _mounts(host)}
    return ", ".join(told[point] for point in RUNNING if point in told) or "mountinfo has no /"


def leaves(device: Path) -> list[Path]:
    """Return what a device's data lie on: itself, or whatever is below a device-mapper or md device."""
    below = sorted((device / "slaves").glob("*"))
    return [leaf for slave in below for leaf in leaves(slave.resolve())] if below else [device.resolve()]


def partition_node(disk: Path, place: range, host: HostPaths) -> Path | None:
    """Return the device node of the partition with these bytes of the block device `disk`; None without such a one.

    By place, not by PARTUUID: a disk and its clone have the same ones.

    Raises:
        OSError: there is no such disk.
    """
    for part in _children(device_folder(disk.stat().st_rdev, host)):
        if is_at(part, place):
            return host.dev / part.name
    return None


def is_at(partition: Path, place: range) -> bool:
    """Tell whether a partition's sysfs folder describes these very bytes of its disk."""
    return is_partition(partition) and _place(partition) == place


def _children(disk: Path) -> list[Path]:
    return [mark.parent for mark in sorted(disk.glob("*/partition"))]


def _place(device: Path) -> range:
    """Return the bytes of its disk that a partition has; a whole disk's begin at 0."""
    start = int(read_fact(device / "start") or 0) * SECTOR
    return range(start, start + int(read_fact(device / "size") or 0) * SECTOR)


def users_of(opened: os.stat_result, place: range, host: HostPaths) -> list[Path]:
    """Return the sysfs folders of all devices that share bytes with a slot.

    Args:
        opened: what `fstat` says of the partition, disk or image file that the slot was opened by.
        place: the slot's bytes in there.
        host: where sysfs is.
    """
    if stat.S_ISBLK(opened.st_mode):
        return _with_holders(_parts_at(device_folder(opened.st_rdev, host), place))
    found: list[Path] = []
    for mark in sorted((host.sysfs / "class/block").glob("loop*/loop/backing_file")):
        loop = mark.parent.parent.resolve()
        if _same_file(Path(read_fact(mark)), opened):
            begin = int(read_fact(mark.parent / "offset") or 0)
            mapped = range(begin, begin + len(_place(loop)))
            if _overlap(mapped, place):
                found += _parts_at(loop, range(place.start - begin, place.stop - begin))
    return _with_holders(found)


def _same_file(path: Path, opened: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), opened)
    except OSError:
        return False  # a backing file that has been removed is no file that we could have opened


def _parts_at(device: Path, place: range) -> list[Path]:
    return [device, *(part for part in _children(device) if _overlap(_place(part), place))]


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _with_holders(devices: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for device in devices:
        holders = [holder.resolve() for holder in sorted((device / "holders").glob("*"))]
        found += [device, *_with_holders(holders)]
    return found
