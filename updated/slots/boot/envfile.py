"""The file that an environment block is in: written in place, for GRUB, which writes too, replays no journal."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from updated.common.durable import rename_flushed, sync_directory
from updated.slots.boot.envblock import SIZE
from updated.slots.boot.esp_errors import translated

MODE = 0o644


@dataclass(frozen=True, slots=True)
class EnvFile:
    """An environment block's file; its block needn't be sound."""

    path: Path

    def read(self) -> bytes | None:
        """Return what is in the file, up to a byte more than a block has; None when it isn't there.

        Raises:
            LocalError: BOOT_FILES, BOOT_READ_ONLY.
        """
        with translated("read"):
            try:
                with self.path.open("rb") as file:
                    return file.read(SIZE + 1)
            except FileNotFoundError:
                return None

    def write(self, data: bytes) -> None:
        """Write a block in place, durably, and read it back; where there is none, make the file.

        Raises:
            LocalError: BOOT_READ_ONLY, NO_SPACE, BOOT_FILES; what is read back isn't what was written.
        """
        with translated("written"):
            there = self.path.exists()
            if there and self.path.stat().st_size == len(data):
                self._overwrite(data, os.O_WRONLY)
            else:
                self._replace(data)
            if self.path.read_bytes() != data:
                raise OSError(errno.EIO, "it reads back differently", str(self.path))

    def _overwrite(self, data: bytes, flags: int) -> None:
        fd = os.open(self.path, flags | os.O_CLOEXEC, MODE)
        try:
            if os.pwrite(fd, data, 0) != len(data):
                raise OSError(errno.EIO, "it was written in part", str(self.path))
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def _replace(self, data: bytes) -> None:
        """Make the file anew where it has another size, which GRUB couldn't write into anyway."""
        beside = EnvFile(self.path.with_name(self.path.name + ".updated-new"))
        try:
            beside._overwrite(data, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
            rename_flushed(beside.path, self.path)
        except BaseException:
            with suppress(FileNotFoundError):
                beside.path.unlink()
            raise
        sync_directory(self.path.parent)

    def oddities(self) -> list[str]:
        """Say what keeps GRUB from writing into the file."""
        try:
            found = self.path.stat()
        except OSError:
            return []  # that it isn't there is told where it is read
        if found.st_size == SIZE and found.st_blocks == 0:
            return [f"{self.path} has no blocks of its own (inline data, or a hole): GRUB can't count boots in it."]
        return []


def beside_of(environment: Path) -> Path:
    """Return where the block is that names the slot which was proven last."""
    return environment.with_name("grubenv.proven")
