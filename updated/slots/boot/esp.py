"""The file system that systemd-boot reads: finds it among the mounts, and changes it so that little can be torn.

FAT keeps no journal: an unfinished change may leave a directory with the old name, the new one, both or neither. So
a new name always comes from a file that is written and flushed beside it, and a name goes only after the one that
takes its place is on the medium.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from updated.common.durable import rename_flushed, sync_directory
from updated.slots.devices import read_fact
from updated.slots.layout import HostPaths

PLACES = ("efi", "boot/efi", "boot")  # where the ESP may be mounted; beside the first two, /boot is XBOOTLDR
BESIDE = ".updated-new"  # no boot loader takes a name that ends so for an entry
MODE = 0o600
PIECE = 1024 * 1024


class BootFolder(Protocol):
    """The primitive changes of one file system; paths are relative to its root, and flushed as each verb says."""

    @property
    def root(self) -> Path:
        """Where it is mounted."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none when it isn't there."""
        ...

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Read up to `length` bytes."""
        ...

    def size(self, path: str) -> int | None:
        """Return a file's bytes; None when there is no such file."""
        ...

    def create(self, path: str, pieces: Iterable[bytes]) -> None:
        """Write a file and flush its content; its name is durable only after `flush`."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Rename a file within this file system; durable only after `flush` of both folders."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file if it is there; durable only after `flush`."""
        ...

    def flush(self, folder: str) -> None:
        """Return when the names in a folder are on the medium."""
        ...

    def free(self) -> int:
        """Return the bytes that can still be written."""
        ...


@dataclass(frozen=True, slots=True)
class MountedFolder:
    """A mounted file system."""

    root: Path

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none when it isn't there."""
        try:
            return sorted(path.name for path in (self.root / folder).iterdir())
        except FileNotFoundError:
            return []

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Read up to `length` bytes."""
        with (self.root / path).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def size(self, path: str) -> int | None:
        """Return a file's bytes; None when there is no such file."""
        target = self.root / path
        return target.stat().st_size if target.is_file() else None

    def create(self, path: str, pieces: Iterable[bytes]) -> None:
        """Write a file and flush its content."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.root / path, flags, MODE), "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old: str, new: str) -> None:
        """Rename a file; its size is in the new name's entry, too, when this returns."""
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        rename_flushed(self.root / old, self.root / new)

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        with suppress(FileNotFoundError):
            (self.root / path).unlink()

    def flush(self, folder: str) -> None:
        """Return when the names in a folder are on the medium."""
        with suppress(FileNotFoundError):
            sync_directory(self.root / folder)

    def free(self) -> int:
        """Return the bytes that can still be written."""
        room = os.statvfs(self.root)
        return room.f_bavail * room.f_frsize


def put(folder: BootFolder, path: str, pieces: Iterable[bytes]) -> None:
    """Write a file beside its place, flush, rename, flush the folder: a cut leaves it whole or not there."""
    beside = path + BESIDE
    try:
        folder.create(beside, pieces)
        folder.rename(beside, path)
    except BaseException:
        folder.remove(beside)
        raise
    folder.flush(str(Path(path).parent))


def pieces_of(folder: BootFolder, path: str) -> Iterator[bytes]:
    """Return a file's content, piece by piece."""
    offset = 0
    while piece := folder.read(path, offset, PIECE):
        yield piece
        offset += len(piece)


def find_mounts(host: HostPaths, wanted: Path | None) -> list[Path]:
    """Return where the FAT file systems are mounted that systemd-boot reads: the ESP, then XBOOTLDR if there is one.

    Args:
        host: where mountinfo and the root directory are.
        wanted: the ESP's mount point from the settings; None: /efi, /boot/efi or /boot, the first that is one.
    """
    boot = host.root / "boot"
    places = [wanted] if wanted else [host.root / place for place in PLACES]
    for place in (*places, boot):
        with suppress(OSError):
            next(place.iterdir(), None)  # what is mounted on demand is mounted by this
    mounted = _fat_mounts(host)
    esp = next((place for place in places if place in mounted), None)
    if esp is None:
        return []
    return [esp, boot] if boot in mounted and boot != esp else [esp]


def _fat_mounts(host: HostPaths) -> set[Path]:
    """Return the mount points of FAT file systems, as mountinfo has them (proc(5))."""
    found = set()
    for fields in map(str.split, read_fact(host.mountinfo).splitlines()):
        if fields[fields.index("-") + 1] in ("vfat", "msdos"):
            found.add(Path(fields[4].replace("\\040", " ")))
    return found
