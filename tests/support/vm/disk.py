"""A machine's disk, read from outside: slots by hash, boot bits, files of /var. The machine itself isn't asked."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from fixtures.image.programs import output, program
from tests.support.bootloader import Choice, valid_copies

PIECE = 4 * 1024 * 1024


class MachineDisk:
    """A disk image; `places` has byte offset and size of each partition by label."""

    def __init__(self, path: Path, places: dict[str, tuple[int, int]]) -> None:
        self.path, self.places = path, places

    def copy(self, path: Path) -> MachineDisk:
        """Copy the disk; holes stay holes."""
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(self.path), str(path)], check=True)
        return MachineDisk(path, self.places)

    def slot(self, label: str) -> Choice:
        """Return a slot as the first valid copy of the partition table has it."""
        copy = valid_copies(self._table())[0]
        return next(slot for slot in copy.slots() if slot.label == label)

    def _table(self) -> bytes:
        """Only the primary copy: a machine that runs may have written it and not yet the other."""
        with self.path.open("rb") as file:
            return file.read(PIECE)

    def digest(self, label: str, size: int | None = None) -> str:
        """Return the SHA-256 of a partition, or of its first `size` bytes."""
        offset, whole = self.places[label]
        return digest_of(self.path, offset, whole if size is None else size)

    def extract(self, label: str, path: Path) -> Path:
        """Copy a partition into a file."""
        offset, size = self.places[label]
        with self.path.open("rb") as disk, path.open("wb") as file:
            disk.seek(offset)
            for start in range(0, size, PIECE):
                piece = disk.read(min(PIECE, size - start))
                if piece.count(0) == len(piece):
                    file.seek(len(piece), 1)
                else:
                    file.write(piece)
            file.truncate(size)
        return path

    def file_in_slot(self, label: str, name: str, path: Path) -> Path:
        """Copy a file out of a slot's ext4, which is never mounted writable: no journal, nothing to replay."""
        offset, _size = self.places[label]
        return dump(f"{self.path}?offset={offset}", name, path)

    def var_file(self, name: str, scratch: Path) -> str | None:
        """Return a file of /var by its path in there, None when it isn't there.

        The machine may run, or have been cut off: its journal is replayed in a copy first, as its next boot would.
        """
        path = scratch.with_suffix(".file")
        path.unlink(missing_ok=True)
        dump(str(self._replayed_var(scratch)), name, path)
        return path.read_text() if path.exists() else None

    def var_json(self, name: str, scratch: Path) -> dict[str, Any] | None:
        """Return a JSON document of /var, None when it isn't there."""
        text = self.var_file(name, scratch)
        return None if text is None else dict(json.loads(text))

    def esp_names(self, folder: str) -> list[str]:
        """Return the names in a folder of the ESP, none when it isn't there."""
        offset, _size = self.places["ESP"]
        command = [str(program("mdir")), "-b", "-i", f"{self.path}@@{offset}", f"::{folder}"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
        return sorted(line.rstrip("/").rpartition("/")[2] for line in listed.stdout.splitlines())

    def esp_file(self, name: str) -> bytes:
        """Return a file of the ESP."""
        offset, _size = self.places["ESP"]
        command = [str(program("mtype")), "-i", f"{self.path}@@{offset}", f"::{name}"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def journal(self, scratch: Path) -> str:
        """Return the machine's journal as journalctl prints it, for people."""
        self._replayed_var(scratch)
        folder = scratch.with_suffix(".journal")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        output("debugfs", "-R", f"rdump /log/journal {folder}", scratch)
        return output("journalctl", "--directory", str(folder / "journal"), "--no-pager", "--output", "short-monotonic")

    def _replayed_var(self, scratch: Path) -> Path:
        with_journal = self.extract("VAR", scratch)
        subprocess.run([str(program("e2fsck")), "-fy", str(with_journal)], capture_output=True, check=False)
        return with_journal


def dump(filesystem: str, name: str, path: Path) -> Path:
    """Copy a file out of an ext4 file system; `path` isn't made when it isn't there."""
    output("debugfs", "-R", f"dump {name} {path}", filesystem)
    return path


def digest_of(path: Path, offset: int = 0, size: int | None = None) -> str:
    """Return the SHA-256 of a part of a file."""
    left = path.stat().st_size - offset if size is None else size
    whole = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(offset)
        while left:
            piece = file.read(min(PIECE, left))
            if not piece:
                break
            whole.update(piece)
            left -= len(piece)
    return whole.hexdigest()
