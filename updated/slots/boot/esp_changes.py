"""Changes of the entries on the ESP, each in an order that leaves a bootable menu wherever it is cut.

What a cut leaves: while a type 1 entry changes its name, the old name, both, or the new one, each with the whole
content; while a unified kernel image does, also neither, as with systemd's own renaming. While entries are removed,
some of them. Beside a place there may be a file `….updated-new`, which the next change overwrites.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from updated.slots.boot.bls import EntryName, parse_name
from updated.slots.boot.entries import CONF_FOLDER, IMAGE_FOLDER, BootEntry, Menu, files_named
from updated.slots.boot.esp import BootFolder, pieces_of, put

SPARE = 64 * 1024  # bytes that stay free: room for a directory that grows


class EntryWriter:
    """Changes one reading of the menu."""

    def __init__(self, menu: Menu) -> None:
        self._menu = menu

    def put_armed(self, slot: str, folder: BootFolder, name: EntryName, source: bytes | str) -> None:
        """Give a slot an entry, and then take its other ones away.

        Args:
            slot: the letter of the slot.
            folder: where the entry goes.
            name: of the entry.
            source: the content of a type 1 entry, or the path of the image that becomes the entry.

        Raises:
            OSError: the file system refused, or is too full; the entry isn't there then.
        """
        target = _place(name)
        if isinstance(source, bytes):
            _check_free(folder, len(source))
            put(folder, target, [source])
        elif source != target:
            folder.rename(source, target)
            _flush(folder, target, source)
        self._remove([entry for entry in self._menu.of(slot) if (entry.folder, entry.path) != (folder, target)])

    def rename(self, entries: Sequence[BootEntry], name: EntryName, *, copied: bool = False) -> None:
        """Let all entries of one slot be one with another name.

        Args:
            entries: of the slot; the first one's content is kept.
            name: what it is called afterwards.
            copied: whether an image is copied, too, so that a cut never leaves neither name; without room for a copy it
                is renamed all the same.

        Raises:
            OSError: the file system refused; what boots is as it was.
        """
        entry, target = entries[0], _place(name)
        folder = entry.folder
        if all((one.folder, one.path) != (folder, target) for one in entries):  # what else has that name is torn
            try:
                if entry.name.is_image and not (copied and _has_room(folder, folder.size(entry.path) or 0)):
                    folder.rename(entry.path, target)
                    _flush(folder, target)
                else:
                    put(folder, target, pieces_of(folder, entry.path))
            except FileNotFoundError:
                if folder.size(target) is None:  # else systemd's own unit was quicker
                    raise
        self._remove([entry for entry in entries if entry.path != target or entry.folder != folder])

    def check_room(self, entry: BootEntry) -> None:
        """See that there is room for a copy of an entry.

        Raises:
            OSError: ENOSPC.
        """
        _check_free(entry.folder, entry.folder.size(entry.path) or 0)

    def clear(self, slot: str, staging: Mapping[str, str]) -> None:
        """Remove a slot's entries, then the files that only they named and what is staged for the slot.

        Raises:
            OSError: the file system refused.
        """
        self._remove(self._menu.of(slot))
        for folder, path in self._torn(slot):
            folder.remove(path)
            _flush(folder, path)
        for folder, path in self.stale(slot, staging):
            folder.remove(path)
            _flush(folder, path)

    def stale(self, slot: str, staging: Mapping[str, str]) -> list[tuple[BootFolder, str]]:
        """Return the files beside a slot's entries that go with them: what nothing else names.

        Raises:
            OSError: a folder can't be read.
        """
        entries = self._menu.of(slot)
        kept = {path for entry in self._menu.entries if entry not in entries for path in files_named(entry)}
        places = [(entry.folder, path) for entry in entries for path in files_named(entry) - {entry.path.lower()}]
        folders = {id(entry.folder): entry.folder for entry in self._menu.entries}.values()
        places += [(folder, path) for folder in folders for path in staging.values()]
        spelt = [(folder, _spelt(folder, path)) for folder, path in places if path.lower() not in kept]
        return [(folder, path) for folder, path in dict.fromkeys(spelt) if folder.size(path) is not None]

    def _torn(self, slot: str) -> list[tuple[BootFolder, str]]:
        """Return files that have the names of a slot's entries and aren't any: what a cut may leave on FAT."""
        known = {entry.path for entry in self._menu.entries}
        found = []
        for folder in {id(entry.folder): entry.folder for entry in self._menu.entries}.values():
            for place in (CONF_FOLDER, IMAGE_FOLDER):
                for text in folder.names(place):
                    name = parse_name(text)
                    if name and name.stem.lower() == f"slot-{slot.lower()}" and f"{place}/{text}" not in known:
                        found.append((folder, f"{place}/{text}"))
        return found

    def _remove(self, entries: Sequence[BootEntry]) -> None:
        for entry in entries:
            entry.folder.remove(entry.path)
            _flush(entry.folder, entry.path)


def _place(name: EntryName) -> str:
    return f"{IMAGE_FOLDER if name.is_image else CONF_FOLDER}/{name}"


def _flush(folder: BootFolder, *paths: str) -> None:
    for parent in dict.fromkeys(str(PurePosixPath(path).parent) for path in paths):
        folder.flush(parent)


def _has_room(folder: BootFolder, size: int) -> bool:
    return folder.free() >= size + SPARE


def _check_free(folder: BootFolder, size: int) -> None:
    if not _has_room(folder, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.root))


def _spelt(folder: BootFolder, path: str) -> str:
    """Return a path of an entry as the file system spells it; FAT itself doesn't mind, the tests' file systems do."""
    here = ""
    for part in PurePosixPath(path).parts:
        names = folder.names(here)
        here = str(PurePosixPath(here, next((name for name in names if name.lower() == part), part)))
    return here
