"""What an install writes beside the slot's root: its hash partition and its boot files, all or none of them.

Whatever can be refused is refused before the slot is touched: a part without a place, a lack of room, a delta to
another file. The hashes of root, tree and files are signed together with the tree's root hash, and each is read back
from its medium; that the tree is the root's was computed where the payload was built (updated/release/slot_parts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from updated.common.durable import remove_durably, sync_directory
from updated.common.log import get_logger
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.files import NO_SPACE, Beside, FileTarget, OldFile
from updated.install.hash_partition import HashPartition
from updated.install.medium import Target
from updated.install.preflight import image_of
from updated.install.target import open_hash_partition
from updated.payload.limits import LIMITS
from updated.payload.manifest import FROM_SOURCE, IN_PLACE, Image, Manifest, Partition
from updated.payload.parse import BESIDE, KERNEL
from updated.payload.slot_set import UKI, VERITY, SlotSet
from updated.slots.boot import BootControl
from updated.slots.layout import HostPaths, Slot

log = get_logger("install")


@dataclass(frozen=True, slots=True)
class FilePlaces:
    """Where boot files are, by their names in BOOT_FILES.

    Args:
        targets: of the slot that is written.
        sources: of the running slot, for files that come as deltas.
        skip: whether this host leaves a payload's boot files out.
        freed: what un-marking the slot removes, its boot entry and image among them: their room counts.
    """

    targets: Mapping[str, Path]
    sources: Mapping[str, Path]
    skip: bool = False
    freed: tuple[Path, ...] = ()


def check_places(parts: SlotSet, places: FilePlaces, *, has_hash_partition: bool) -> None:
    """See that every part has a place here, and that no place is left with another release's part.

    Raises:
        RefusedError: BOOT_FILE_NO_PLACE, VERITY_NO_PLACE, SLOT_SET_INCOMPLETE, OPERATION_UNSUPPORTED.
    """
    _check_tree(parts, has_hash_partition=has_hash_partition)
    if places.skip:
        if parts.files:
            log.warning("boot-files-skipped", names=", ".join(parts.files), why="slots.skip_boot_files is set")
        return
    lacking = [name for name in parts.files if name not in places.targets]
    if lacking:
        raise RefusedError(
            ErrorCode.BOOT_FILE_NO_PLACE,
            f"the release is booted with {', '.join(lacking)}, and there is no place for that on this host",
            hint="Set slots.boot_loader, or slots.kernel_path and slots.initrd_path; or slots.skip_boot_files, if this"
            " host's boot loader takes its files from elsewhere.",
        )
    if places.targets and not parts.files.keys() & {KERNEL, UKI}:
        raise RefusedError(
            ErrorCode.SLOT_SET_INCOMPLETE,
            f"the release brings no kernel, and this host boots the one at {next(iter(places.targets.values()))}:"
            " another release's",
            hint="Build the release with --kernel or --uki; or set slots.skip_boot_files, if this host's boot loader"
            " takes its files from elsewhere.",
        )


def _check_tree(parts: SlotSet, *, has_hash_partition: bool) -> None:
    if parts.verity is None:
        if has_hash_partition:
            raise RefusedError(
                ErrorCode.SLOT_SET_INCOMPLETE,
                "the release brings no verity tree, and the slots of this host are verified",
                hint="Build the release with --make-verity; or leave slots.verity_labels out, which gives up that the"
                " kernel verifies what it reads.",
            )
        return
    if not has_hash_partition:
        raise RefusedError(
            ErrorCode.VERITY_NO_PLACE,
            f"the release brings a verity tree with the root hash {parts.root_hash}, and the slots of this host have no"
            " hash partitions",
            hint="Name them with slots.verity_labels, or offer this host a release without a tree.",
        )
    if parts.verity.kinds & (FROM_SOURCE | IN_PLACE):
        raise RefusedError(
            ErrorCode.OPERATION_UNSUPPORTED,
            "the verity tree comes as a delta",
            hint="Build the payload with `update-payload build`, which puts the tree in whole.",
        )


@dataclass(frozen=True, slots=True)
class BesideRoot:
    """The parts that are written with the root: opened and empty, none in place before `commit`."""

    parts: Mapping[str, Beside]  # by their partitions' names
    places: FilePlaces
    block_size: int  # bytes

    @property
    def files(self) -> frozenset[str]:
        """Return the names of the boot files among them."""
        return frozenset(self.parts) - {VERITY}

    def begin(self) -> None:
        """Remove the slot's stale boot files, which makes room, and begin those that change in place.

        Call it once the slot can't boot any more.

        Raises:
            LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK.
        """
        for path in [] if self.places.skip else _stale(self.places):
            try:
                remove_durably(path)
            except OSError as error:
                raise _unwritable(path, error) from error
        for part in self.parts.values():
            if part.in_place and part.old is not None and isinstance(part.target, FileTarget):
                part.target.begin_with(part.old, self.block_size)

    def check(self) -> None:
        """Flush each part, and compare what its medium gives back with the signed hash.

        Raises:
            RefusedError: PARTITION_HASH_MISMATCH, FILE_HASH_MISMATCH.
            LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK.
        """
        for part in self.parts.values():
            part.target.check()

    def commit(self) -> None:
        """Put all of them in place, durably; call it when every part, the root too, is proven.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        for part in self.parts.values():
            part.target.commit()


def open_tree(
    parts: SlotSet, boot: BootControl, target: tuple[Slot, Target], host: HostPaths, stack: ExitStack
) -> dict[str, Beside]:
    """Open the slot's hash partition for the payload's tree, if there is one, with every refusal that a slot has.

    Args:
        parts: what comes.
        boot: the boot loader's data.
        target: the slot, and it opened.
        host: where the kernel tells what is mounted and running.
        stack: closes it.

    Raises:
        RefusedError: TARGET_IS_RUNNING, TARGET_MOUNTED, TARGET_TOO_SMALL, TARGET_BUSY.
        LocalError: INSTALL_DEVICE_OPEN, NO_SPACE; what the boot loader's data raise.
    """
    if parts.verity is None:
        return {}
    image = image_of(parts.verity.new)
    partition = stack.enter_context(open_hash_partition(boot, target, needed=image.size, host=host))
    partition.check_space(image.size)
    return {VERITY: Beside(HashPartition(partition, image))}


def open_files(manifest: Manifest, parts: SlotSet, places: FilePlaces, stack: ExitStack) -> dict[str, Beside]:
    """Open a name beside each boot file's place, and see that there will be room once the stale ones are gone.

    Args:
        manifest: what comes.
        parts: its boot files.
        places: where they go, and where the running slot's are.
        stack: closes them, and removes what wasn't committed.

    Raises:
        RefusedError: LIMIT_EXCEEDED; SOURCE_MISMATCH, NEW_PARTITION_INFO when one is a delta to another file.
        LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK.
    """
    for part in manifest.partitions:
        if part.skipped:
            log.warning("procedure-skipped", name=part.name, why="nothing is done with it on this host")
    if places.skip:
        return {}
    _remove_leftovers(places)
    files, targets = dict[str, Beside](), []
    for name, part in parts.files.items():
        _make_folder(places.targets[name].parent)
        old = _open_old(part, places.sources, stack) if part.kinds & (FROM_SOURCE | IN_PLACE) else None
        targets.append(stack.enter_context(FileTarget(places.targets[name], _file_image(part))))
        files[name] = Beside(targets[-1], old, in_place=manifest.changes_in_place(part))
    _check_room(targets, {*_stale(places), *(path for path in places.freed if path.is_file())})
    return files


def _remove_leftovers(places: FilePlaces) -> None:
    """Remove what an install that was cut left beside the places of the slot.

    Raises:
        LocalError: DOWNLOAD_WRITE.
    """
    for path in places.targets.values():
        left = path.with_name(path.name + BESIDE)
        try:
            left.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(left, error) from error


def _make_folder(folder: Path) -> None:
    """Make a folder for boot files, durably; the first release that has any brings it.

    Raises:
        LocalError: DOWNLOAD_WRITE or NO_SPACE.
    """
    try:
        for path in [path for path in (*reversed(folder.parents), folder) if not path.is_dir()]:
            path.mkdir(exist_ok=True)
            sync_directory(path.parent)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _stale(places: FilePlaces) -> list[Path]:
    """Return the boot files that the slot has now; never one that the running slot has too."""
    running = {path.resolve() for path in places.sources.values()}
    return [path for path in places.targets.values() if path.is_file() and path.resolve() not in running]


def _check_room(targets: list[FileTarget], stale: set[Path]) -> None:
    """See that each file system has room for all that goes there, once the stale files are gone.

    Raises:
        LocalError: NO_SPACE.
    """
    needed, room = dict[int, int](), dict[int, int]()
    for target in targets:
        found, free = target.medium()
        needed[found] = needed.get(found, 0) + target.size
        room[found] = free
    for path in stale:
        state = path.stat()
        if state.st_dev in room:
            room[state.st_dev] += state.st_blocks * 512  # stat(2): of 512 bytes
    for device, size in needed.items():
        if size > room[device]:
            names = ", ".join(str(target.path) for target in targets if target.medium()[0] == device)
            raise LocalError(
                ErrorCode.NO_SPACE,
                f"{names} need {size} bytes together, and there will be {room[device]}",
                hint="Make room on that file system, or make it larger; the running slot's files stay there.",
            )


def _open_old(part: Partition, sources: Mapping[str, Path], stack: ExitStack) -> OldFile:
    if part.old is None or part.name not in sources:
        raise RefusedError(
            ErrorCode.NEW_PARTITION_INFO,
            f"{part.name} comes as a delta, and it isn't said which file it was made from",
            hint=f"Offer a payload whose {part.name} is whole; `update-payload inspect` shows its operations.",
        )
    old = stack.enter_context(OldFile(sources[part.name], part.old))
    old.check()
    return old


def _file_image(part: Partition) -> Image:
    """Return what a file will be; no slot's size bounds it."""
    image = image_of(part.new)
    if image.size > LIMITS.file_bytes:
        raise RefusedError(
            ErrorCode.LIMIT_EXCEEDED,
            f"{part.name} has {image.size} bytes, and a file beside the slot has {LIMITS.file_bytes} at most",
            hint=f"Offer a payload with a smaller {part.name}.",
        )
    return image


def _unwritable(path: Path, error: OSError) -> LocalError:
    return LocalError(
        ErrorCode.NO_SPACE if error.errno in NO_SPACE else ErrorCode.DOWNLOAD_WRITE,
        f"{path} can't be changed: {error.strerror}",
        hint="Look at the file system that it is on: is it mounted read-only?",
    )
