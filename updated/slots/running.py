"""Which partition this system runs from, and on which disk."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from updated.errors import ErrorCode, LocalError
from updated.slots.devices import all_partitions, is_partition, read_fact, running_devices, told_mounts
from updated.slots.disk import FileDisk
from updated.slots.gpt import Entry
from updated.slots.layout import HostPaths
from updated.slots.tables import read_table

# The kernel's own root=, dracut's mount.usr=, usr= and verity.usr= as Flatcar has them, systemd's verity generators'.
KEYS = r"root|usr|mount\.usr|verity\.usr|systemd\.verity_root_data|systemd\.verity_usr_data"
NAMED = re.compile(rf'(?:^|\s)"?(?:{KEYS})=(PARTUUID|PARTLABEL)=([^\s"]+)')


def booted_partuuids(host: HostPaths) -> tuple[str, ...]:
    """Return the PARTUUIDs of the partitions that this system may be running from, the surest first, lower case.

    First the devices under / and /usr, followed through device-mapper to partitions; then what the kernel command
    line names, for image files and containers have no such device. At most one of them is a slot.
    """
    found = [partuuid_of_device(device, host) for device in running_devices(host)]
    for kind, value in NAMED.findall(read_fact(host.cmdline)):
        found += [value.lower()] if kind == "PARTUUID" else _labelled(value, host)
    return tuple(dict.fromkeys(uuid for uuid in found if uuid))


def how_told(partuuid: str, host: HostPaths) -> str:
    """Return in a sentence's second half how it is known that the system runs from a partition."""
    for device in running_devices(host):
        if partuuid_of_device(device, host) == partuuid:
            return f"what is mounted at / or /usr is on its partition {device.name}"
    named = [value for kind, value in NAMED.findall(read_fact(host.cmdline)) if kind == "PARTLABEL"]
    by = f"its label {named[0]}" if named else "its PARTUUID"
    return f"the kernel command line names it by {by}; no device under / or /usr is one of its disk"


def _labelled(label: str, host: HostPaths) -> list[str | None]:
    named = re.compile(rf"^PARTNAME={re.escape(label)}$", re.MULTILINE)
    return [partuuid_of_device(part, host) for part in all_partitions(host) if named.search(read_fact(part / "uevent"))]


def partuuid_of_device(device: Path, host: HostPaths) -> str | None:
    """Return the PARTUUID of a partition's sysfs folder; None for what is no GPT partition.

    Older kernels don't tell it in the uevent, so the disk's own table is asked then.
    """
    found = re.search(r"^PARTUUID=([0-9a-fA-F-]+)$", read_fact(device / "uevent"), re.MULTILINE)
    if found:
        return found.group(1).lower()
    number = read_fact(device / "partition")
    entries = _entries_of(host.dev / device.resolve().parent.name) if number else ()
    return next((entry.guid for entry in entries if entry.index == int(number) - 1), None)


def _entries_of(disk: Path) -> tuple[Entry, ...]:
    try:
        with FileDisk(disk, writable=False) as opened:
            return read_table(opened).table.partitions()
    except (OSError, LocalError):
        return ()  # no GPT, or none that we may read: no partition of it is a slot


def find_disk(partuuids: Sequence[str], host: HostPaths) -> Path:
    """Return the device node of the disk that this system runs from.

    Raises:
        LocalError: SLOT_NOT_FOUND; no disk, or several, have a partition that it may run from.
    """
    running = [device for device in running_devices(host) if is_partition(device)]
    candidates = running or [part for part in all_partitions(host) if partuuid_of_device(part, host) in partuuids]
    disks = {device.resolve().parent.name for device in candidates}
    if len(disks) != 1:
        raise _no_disk(disks, partuuids, host)
    return host.dev / disks.pop()


def _no_disk(disks: Collection[str], partuuids: Sequence[str], host: HostPaths) -> LocalError:
    told = f"{told_mounts(host)}; looked for {', '.join(partuuids) or 'no PARTUUID'}"
    found = f"partitions of {len(disks)} disks ({', '.join(sorted(disks))})" if disks else "no partition of a disk"
    return LocalError(
        ErrorCode.SLOT_NOT_FOUND,
        f"this system runs from {found} that could be a slot: {told}",
        hint="Slots are GPT partitions, under / or /usr directly, below device-mapper (verity, crypt), an overlay or a"
        " whole-disk RAID, or named by root=PARTUUID= or the like on the kernel command line. Name the disk in"
        " slots.disk, and look at `lsblk -o +PARTLABEL,PARTUUID` and docs/boot-loaders.md.",
    )
