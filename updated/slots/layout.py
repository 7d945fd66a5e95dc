"""Which partitions are the slots, and which one this system runs from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from updated.errors import ErrorCode, LocalError
from updated.slots.gpt import COREOS_ROOTFS, Entry, Table, priority_of, successful_of, tries_of

PARTUUID = re.compile(r"(?:^|\s)(?:root|usr|mount\.usr|verity_usr)=PARTUUID=([0-9a-fA-F-]{36})(?=\s|$)")
NAMES = ("A", "B")


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Where the kernel tells what runs here; tests and containers name others."""

    cmdline: Path = Path("/proc/cmdline")
    mountinfo: Path = Path("/proc/self/mountinfo")
    sysfs: Path = Path("/sys")
    boot_id: Path = Path("/proc/sys/kernel/random/boot_id")
    machine_id: Path = Path("/etc/machine-id")
    os_release: Path = Path("/etc/os-release")
    root: Path = Path("/")


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the two; offset and size in bytes on the disk."""

    name: str
    partuuid: str
    label: str
    offset: int
    size: int
    priority: int
    tries: int
    successful: bool

    @property
    def bootable(self) -> bool:
        """Whether the boot loader may pick it."""
        return self.priority > 0 and (self.successful or self.tries > 0)


def find_entries(table: Table, labels: Sequence[str]) -> tuple[Entry, Entry]:
    """Return the entries of slot A and slot B: of CoreOS's root type, with these labels, each once.

    Raises:
        LocalError: SLOT_NOT_FOUND.
    """
    found = []
    for label in labels:
        matching = [entry for entry in table.entries if entry.label == label and entry.type_guid == COREOS_ROOTFS]
        if len(matching) != 1:
            raise _not_found(f"the disk has {len(matching)} partitions labelled {label} of type {COREOS_ROOTFS}, not 1")
        found.append(matching[0])
    return found[0], found[1]


def slot_of(name: str, entry: Entry, sector_size: int) -> Slot:
    """Describe a table's entry as a slot."""
    return Slot(
        name=name,
        partuuid=entry.guid,
        label=entry.label,
        offset=entry.first_lba * sector_size,
        size=(entry.last_lba - entry.first_lba + 1) * sector_size,
        priority=priority_of(entry.attributes),
        tries=tries_of(entry.attributes),
        successful=successful_of(entry.attributes),
    )


def booted_partuuids(host: HostPaths) -> tuple[str, ...]:
    """Return the PARTUUIDs of the partitions that this system may be running from, the surest first, lower case.

    First the devices under / and /usr, followed through device-mapper to partitions; then what the kernel command
    line names, for image files and containers have no such device. At most one of them is a slot.
    """
    found = [partuuid_of_device(device) for device in running_devices(host)]
    found += [named.group(1).lower() for named in PARTUUID.finditer(_read(host.cmdline))]
    return tuple(dict.fromkeys(uuid for uuid in found if uuid))


def running_devices(host: HostPaths) -> list[Path]:
    """Return the sysfs folders of the block devices under / and /usr, device-mapper resolved to what is below it."""
    found: list[Path] = []
    for mount in (host.root, host.root / "usr"):
        try:
            device = mount.stat().st_dev
        except OSError:
            continue  # no /usr of its own
        found += _leaves(host.sysfs / "dev/block" / f"{os.major(device)}:{os.minor(device)}")
    return found


def _leaves(device: Path) -> list[Path]:
    if not device.exists():
        return []  # no block device: an overlay, a network file system
    below = sorted((device / "slaves").glob("*")) if (device / "slaves").is_dir() else []
    return [leaf for slave in below for leaf in _leaves(slave.resolve())] if below else [device.resolve()]


def partuuid_of_device(device: Path) -> str | None:
    """Return the PARTUUID that the kernel names for a partition's sysfs folder, if it does."""
    found = re.search(r"^PARTUUID=([0-9a-fA-F-]{36})$", _read(device / "uevent"), re.MULTILINE)
    return found.group(1).lower() if found else None


def find_disk(partuuids: Sequence[str], host: HostPaths) -> Path:
    """Return the device node of the disk that the first known of these partitions is on.

    Raises:
        LocalError: SLOT_NOT_FOUND.
    """
    for partuuid in partuuids:
        node = partition_node(partuuid, host)
        if node is not None:
            return Path("/dev") / (host.sysfs / "class/block" / node.name).resolve().parent.name
    raise _not_found(
        f"no disk has a partition that this system runs from (looked for {', '.join(partuuids) or 'none'})"
    )


def partition_node(partuuid: str, host: HostPaths) -> Path | None:
    """Return the device node of a partition, None when the kernel doesn't know it (an image file's)."""
    for device in sorted((host.sysfs / "class/block").glob("*")):
        if (device / "partition").exists() and partuuid_of_device(device) == partuuid:
            return Path("/dev") / device.name
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # it isn't there: the next source is asked


def _not_found(message: str) -> LocalError:
    return LocalError(
        ErrorCode.SLOT_NOT_FOUND,
        message,
        hint="Look at slots.disk and slots.labels in the settings, and at `lsblk -o +PARTLABEL,PARTUUID`.",
    )
