"""Settings made into the means they describe: which boot loader's data, where the kernel tells about this host."""

from __future__ import annotations

from dataclasses import replace

from updated.config import HostSettings, SlotSettings
from updated.slots.boot import BootControl
from updated.slots.boot.efivars import read_loader_facts
from updated.slots.boot.envfile import EnvFile, beside_of
from updated.slots.boot.esp import MountedFolder, find_mounts
from updated.slots.boot.gptprio import GptPrio
from updated.slots.boot.grubenv import GrubEnv
from updated.slots.boot.systemd_boot import SystemdBoot
from updated.slots.layout import HostPaths, Layout
from updated.slots.partitions import Partitions
from updated.slots.running import booted_partuuids, find_disk


def host_paths(host: HostSettings) -> HostPaths:
    """Return where this host tells about itself."""
    return HostPaths(
        cmdline=host.cmdline,
        mountinfo=host.mountinfo,
        sysfs=host.sysfs,
        boot_id=host.boot_id,
        machine_id=host.machine_id,
        os_release=host.os_release,
        root=host.root,
    )


def layout_of(slots: SlotSettings) -> Layout:
    """Return what the settings say of the slots' partitions and files."""
    paths = {"kernel": slots.kernel_path, "initrd": slots.initrd_path}
    return Layout(
        labels=(slots.labels[0], slots.labels[1]),
        verity_labels=slots.verity_labels,
        files={name: path for name, path in paths.items() if path is not None},
    )


def boot_control(slots: SlotSettings, host: HostPaths) -> BootControl:
    """Return the data of the boot loader that the settings name.

    Raises:
        LocalError: SLOT_NOT_FOUND when the disk with the slots can't be found.
    """
    partuuids = booted_partuuids(host)
    disk = slots.disk or find_disk(partuuids, host)
    layout = layout_of(slots)
    if slots.boot_loader == "gptprio":
        return GptPrio(disk, booted_partuuids=partuuids, layout=layout, host=host)
    # these boot loaders name a slot by its partition, so its type may be whatever the image's builder gave it
    parts = Partitions(disk, booted_partuuids=partuuids, layout=replace(layout, type_guid=None), host=host)
    if slots.boot_loader == "grub":
        return GrubEnv(parts, EnvFile(slots.grubenv), EnvFile(beside_of(slots.grubenv)))
    return SystemdBoot(
        parts,
        folders=lambda: [MountedFolder(place) for place in find_mounts(host, slots.esp)],
        facts=lambda: read_loader_facts(host.sysfs),
    )
