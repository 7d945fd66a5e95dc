"""Opens the slot that an install writes: every refusal before the first byte, one file to the end."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import dataclass
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
    place = _Place(path, offset, slot.size, f"slot {slot.name}", slot.place)
    return _open_place(place, needed, host)


def open_hash_partition(boot: BootControl, target: tuple[Slot, Target], *, needed: int, host: HostPaths) -> Target:
    """Open a slot's verity hash partition for writing, or say why not; nothing is changed yet.

    Args:
        boot: the boot loader's data, which know where it is.
        target: the slot, and it opened: where both are in one image file, the lock is held already.
        needed: the size of the tree in bytes.
        host: where the kernel tells what is mounted and running.

    Raises:
        RefusedError: as `open_target`.
        LocalError: as `open_target`.
    """
    slot, opened = target
    found = boot.verity_of(slot)
    if found is None:
        raise AssertionError("a tree without a hash partition is refused before")
    name = f"the hash partition of slot {slot.name}"
    if found == boot.verity_of(boot.booted()):
        raise _running(name)
    path, offset, size = found
    return _open_place(_Place(path, offset, size, name), needed, host, opened)


@dataclass(frozen=True, slots=True)
class _Place:
    """A partition: what to open, where in there, and how it is called; sizes in bytes."""

    path: Path
    offset: int
    size: int
    name: str
    on_disk: range | None = None  # which bytes of its disk it has, where the kernel's view is to be compared


def _open_place(place: _Place, needed: int, host: HostPaths, holder: Target | None = None) -> Target:
    if needed > place.size:
        raise RefusedError(
            ErrorCode.TARGET_TOO_SMALL,
            f"{place.name} has {place.size} bytes, the release needs {needed}",
            hint="Build a smaller image, or make the partitions of this host larger.",
        )
    path = place.path
    try:
        named = path.stat(follow_symlinks=False)
        _refuse_in_use(named, place, host)
        fd = _open(path, named, held=holder is not None and holder.is_on(named))
    except OSError as error:
        busy = error.errno in (errno.EBUSY, errno.EWOULDBLOCK)
        raise (_busy(place) if busy else _cannot_open(place.name, path, error)) from error
    if os.lseek(fd, 0, os.SEEK_END) < place.offset + place.size:
        os.close(fd)
        raise RefusedError(
            ErrorCode.TARGET_TOO_SMALL,
            f"{path} ends before {place.name} does",
            hint="Repair the partition table or the image file.",
        )
    return Target(fd, place.offset, place.size, f"{place.name} ({path})")


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
        raise _cannot_open(f"slot {slot.name}", path, error) from error
    return Target(fd, offset, slot.size, f"slot {slot.name} ({path})")


def _refuse_running_slot(boot: BootControl, slot: Slot, host: HostPaths) -> None:
    booted = boot.booted()
    if slot.name == booted.name or slot.partuuid in {booted.partuuid, *booted_partuuids(host)}:
        raise _running(f"slot {slot.name}")


def _refuse_in_use(named: os.stat_result, place: _Place, host: HostPaths) -> None:
    """Refuse what runs or is mounted, by device numbers: the device's own, or the loop devices' of an image file."""
    of_its_own = place.on_disk is not None and place.offset == 0 and stat.S_ISBLK(named.st_mode)
    if of_its_own and place.on_disk is not None and not is_at(device_folder(named.st_rdev, host), place.on_disk):
        raise OSError(errno.ENXIO, "the kernel has another partition there")
    devices = users_of(named, range(place.offset, place.offset + place.size), host)
    running = running_devices(host)
    if any(device in running for device in devices):
        raise _running(place.name)
    numbers = {number_of(device) for device in devices}
    for line in host.mountinfo.read_text(errors="replace").splitlines():
        _parent, number, _root, point = line.split()[1:5]
        if number in numbers:
            raise RefusedError(
                ErrorCode.TARGET_MOUNTED,
                f"{place.name} is mounted at {point}",
                hint=f"Unmount it: `umount {point}`.",
            )


def _open(path: Path, named: os.stat_result, *, held: bool) -> int:
    """Open and lock what has just been looked at, and nothing else that its name leads to by now.

    `held`: this install has the same file open and locked already, for another part of it.
    """
    if not (stat.S_ISREG(named.st_mode) or stat.S_ISBLK(named.st_mode)):
        raise OSError(errno.EINVAL, "it is neither a block device nor a file")
    # O_EXCL on a block device fails while anything else (a mount, device-mapper) holds it; on a file it says nothing
    exclusive = os.O_EXCL if stat.S_ISBLK(named.st_mode) and not held else 0
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | exclusive)
    try:
        if not os.path.samestat(os.fstat(fd), named):
            raise OSError(errno.ESTALE, "it was replaced while it was looked at")
        if not held:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _running(name: str) -> RefusedError:
    return RefusedError(
        ErrorCode.TARGET_IS_RUNNING,
        f"{name} is the one that runs",
        hint="This is a fault of the configuration or of the agent; nothing was changed.",
    )


def _busy(place: _Place) -> RefusedError:
    return RefusedError(
        ErrorCode.TARGET_BUSY,
        f"{place.name} ({place.path}) is in use by another process",
        hint="Is another installer at work? `fuser -v` shows who has the device open.",
        retry=Retry.LATER,
    )


def _cannot_open(name: str, path: Path, error: OSError) -> LocalError:
    return LocalError(
        ErrorCode.INSTALL_DEVICE_OPEN,
        f"{name} ({path}) can't be opened: {error.strerror}",
        hint="Look at slots.disk in the settings, and at the device's permissions.",
    )
