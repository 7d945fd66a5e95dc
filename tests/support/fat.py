"""A FAT file system in memory that records each change, and what a power cut may leave of them.

What is flushed is there. Of what isn't, FAT promises nothing: a new name may be missing, a removed one still there, and
of a renaming the old name, the new one, both or neither may be left. The new name may lead to nothing: Linux writes
size and place of the content into it with the next flush of the file (seen with kernel 6.1). One that was being
written may have any beginning of its content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath

Files = dict[str, bytes]
Change = tuple[str, str, str, bytes]  # create, rename or remove; path, other path, content


@dataclass(eq=False)
class RecordedFat:
    """The file system; `log` has every change since it was made, `flush` among them."""

    files: Files
    log: list[Change] = field(default_factory=list)
    room: int = 1 << 30

    @classmethod
    def of(cls, folder: Path) -> RecordedFat:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls({str(path.relative_to(folder)): path.read_bytes() for path in paths})

    @property
    def root(self) -> Path:
        return Path("/esp")

    def names(self, folder: str) -> list[str]:
        return sorted({PurePosixPath(p).name for p in self.files if str(PurePosixPath(p).parent) == (folder or ".")})

    def read(self, path: str, offset: int, length: int) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][offset : offset + length]

    def size(self, path: str) -> int | None:
        return len(self.files[path]) if path in self.files else None

    def create(self, path: str, pieces: Iterable[bytes]) -> None:
        data = b"".join(pieces)
        self.log.append(("create", path, "", data))
        self.files[path] = data

    def rename(self, old: str, new: str) -> None:
        if old not in self.files:
            raise FileNotFoundError(old)
        self.log.append(("rename", old, new, self.files[old]))
        self.files[new] = self.files.pop(old)

    def remove(self, path: str) -> None:
        if path in self.files:
            self.log.append(("remove", path, "", b""))
            del self.files[path]

    def flush(self, folder: str) -> None:
        self.log.append(("flush", folder, "", b""))

    def free(self) -> int:
        return self.room


def cuts(before: Files, log: list[Change]) -> Iterator[Files]:
    """Return every state that a power cut after any number of changes may leave, `before` among them."""
    seen: set[tuple[tuple[str, bytes], ...]] = set()
    for length in range(len(log) + 1):
        known, pending = settled(before, log[:length])
        for outcome in product(*(_outcomes(change) for change in pending)):
            state = dict(known)
            for added, gone in outcome:
                for path in gone:
                    state.pop(path, None)
                state |= added
            key = tuple(sorted(state.items()))
            if key not in seen:
                seen.add(key)
                yield state


def settled(before: Files, log: list[Change]) -> tuple[Files, list[Change]]:
    """Return what is on the medium for sure, and the changes that may be."""
    state, pending = dict(before), list[Change]()
    for change in log:
        if change[0] != "flush":
            pending.append(change)
            continue
        for other in [item for item in pending if _folders(item) <= {change[1]}]:
            pending.remove(other)
            _apply(state, other)
    return state, pending


def _folders(change: Change) -> set[str]:
    return {str(PurePosixPath(path).parent) for path in change[1:3] if path}


def _apply(state: Files, change: Change) -> None:
    kind, path, other, data = change
    if kind == "create":
        state[path] = data
    else:
        state.pop(path, None)
    if kind == "rename":
        state[other] = data


def _outcomes(change: Change) -> list[tuple[Files, list[str]]]:
    """Return what may come of a change that wasn't flushed: files that are there, names that are gone."""
    kind, path, other, data = change
    if kind == "create":
        return [({}, []), ({path: data}, []), ({path: data[: len(data) // 2]}, []), ({path: b""}, [])]
    if kind == "remove":
        return [({}, []), ({}, [path])]
    news = ({}, {other: data}, {other: b""})
    return [(new, gone) for new in news for gone in ([], [path])]


@dataclass(frozen=True)
class State:
    """A state as the boot loader model reads it."""

    files: Files

    def listing(self, folder: str) -> list[str]:
        return RecordedFat(self.files).names(folder)

    def content(self, path: str) -> bytes | None:
        return self.files.get(path)
