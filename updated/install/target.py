"""Opens the slot that an install writes: every refusal before the first byte, one file to the end."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from updated.errors import ErrorCode, LocalError, RefusedError, Retry
from updated.install.medium import Target
from updated.slots.boot import BootControl
from updated.slots.devices import device_folder, is_at, number_of, running_devices, users_of
from updated.slots.layout import HostPaths, Slot
from updated.slots.running import booted_partuuids


def open_target(boot: BootControl, slot: Slot, *, needed: int, host: HostPaths) -> Target:
    """Open a slot for writing, or say why not; nothing is changed yet.

    Args:
        boot: the boot loader's data, which know the running slot.
        slot: where to write.
        needed: the largest byte offset that will be written.
        host: where the kernel tells what is mounted and running.

    Raises:
        RefusedError: TARGET_IS_RUNNING, TARGET_MOUNTED, TARGET_TOO_SMALL, TARGET_BUSY.
        LocalError: INSTALL_DEVICE_OPEN; SLOT_NOT_FOUND and others when the boot loader's data can't be read.
    """
    path, offset = boot.path_of(slot)
    _refuse_running_slot(boot, slot, host)
    if needed > slot.size:
        raise RefusedError(
            ErrorCode.TARGET_TOO_SMALL,
            f"slot {slot.name} has {slot.size} bytes, the release needs {needed}",
            hint="Build a smaller image, or make the slots of this host larger.",
        )
    try:
        named = path.stat(follow_symlinks=False)
        _refuse_in_use(named, slot, offset, host)
        fd = _open(path, named)
    except OSError as error:
        busy = error.errno in (errno.EBUSY, errno.EWOULDBLOCK)
        raise (_busy(path, slot) if busy else _cannot_open(path, slot, error)) from error
    if os.lseek(fd, 0, os.SEEK_END) < offset + slot.size:
        os.close(fd)
        raise RefusedError(
            ErrorCode.TARGET_TOO_SMALL,
            f"{path} ends before slot {slot.name} does",
            hint="Repair the partition table or the image file.",
        )
    return Target(fd, offset, slot.size, f"slot {slot.name} ({path})")


def open_running(boot: BootControl) -> Target:
    """Open the running slot for reading: the source of a delta.

    Raises:
        LocalError: INSTALL_DEVICE_OPEN.
    """
    slot = boot.booted()
    path, offset = boot.path_of(slot)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(path, slot, error) from error
    return Target(fd, offset, slot.size, f"slot {slot.name} ({path})")


def _refuse_running_slot(boot: BootControl, slot: Slot, host: HostPaths) -> None:
    booted = boot.booted()
    if slot.name == booted.name or slot.partuuid in {booted.partuuid, *booted_partuuids(host)}:
        raise _running(slot)


def _refuse_in_use(named: os.stat_result, slot: Slot, offset: int, host: HostPaths) -> None:
    """Refuse what runs or is mounted, by device numbers: the device's own, or the loop devices' of an image file."""
    if offset == 0 and stat.S_ISBLK(named.st_mode) and not is_at(device_folder(named.st_rdev, host), slot.place):
        raise OSError(errno.ENXIO, "the kernel has another partition there")
    devices = users_of(named, range(offset, offset + slot.size), host)
    running = running_devices(host)
    if any(device in running for device in devices):
        raise _running(slot)
    numbers = {number_of(device) for device in devices}
    for line in host.mountinfo.read_text(errors="replace").splitlines():
        _parent, number, _root, point = line.split()[1:5]
        if number in numbers:
            raise RefusedError(
                ErrorCode.TARGET_MOUNTED,
                f"slot {slot.name} is mounted at {point}",
                hint=f"Unmount it: `umount {point}`.",
            )


def _open(path: Path, named: os.stat_result) -> int:
    """Open and lock what has just been looked at, and nothing else that its name leads to by now."""
    if not (stat.S_ISREG(named.st_mode) or stat.S_ISBLK(named.st_mode)):
        raise OSError(errno.EINVAL, "it is neither a block device nor a file")
    # O_EXCL on a block device fails while anything else (a mount, device-mapper) holds it; on a file it says nothing
    exclusive = os.O_EXCL if stat.S_ISBLK(named.st_mode) else 0
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | exclusive)
    try:
        if not os.path.samestat(os.fstat(fd), named):
            raise OSError(errno.ESTALE, "it was replaced while it was looked at")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _running(slot: Slot) -> RefusedError:
    return RefusedError(
        ErrorCode.TARGET_IS_RUNNING,
        f"slot {slot.name} is the one that runs",
        hint="This is a fault of the configuration or of the agent; nothing was changed.",
    )


def _busy(path: Path, slot: Slot) -> RefusedError:
    return RefusedError(
        ErrorCode.TARGET_BUSY,
        f"slot {slot.name} ({path}) is in use by another process",
        hint="Is another installer at work? `fuser -v` shows who has the device open.",
        retry=Retry.LATER,
    )


def _cannot_open(path: Path, slot: Slot, error: OSError) -> LocalError:
    return LocalError(
        ErrorCode.INSTALL_DEVICE_OPEN,
        f"slot {slot.name} ({path}) can't be opened: {error.strerror}",
        hint="Look at slots.disk in the settings, and at the device's permissions.",
    )
