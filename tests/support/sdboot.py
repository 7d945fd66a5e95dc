"""systemd-boot in small, sharing no code with the product: which entry of an ESP it boots, and how it counts boots.

Rule (systemd-boot(7), Boot Loader Specification, UAPI version format): entries whose boots are used up come last; of
the others, those with a sort key first, by sort key, machine id, version (newest first), and name (last first). With
`counted_names` it compares names with their counters, as systemd 252 does; without, as 257 does. An entry that starts
a file which isn't there, and an image without a version of an OS, are no entries.
"""

from __future__ import annotations

import functools
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NAME = re.compile(r"(?s)(?P<stem>.*?)(?:\+(?P<left>\d+)(?:-(?P<done>\d+))?)?(?P<end>\.conf|\.efi)", re.IGNORECASE)


class Files(Protocol):
    """The files of one file system."""

    def listing(self, folder: str) -> list[str]:
        """Names in a folder."""
        ...

    def content(self, path: str) -> bytes | None:
        """A file's bytes; None when it isn't there."""
        ...


@dataclass(frozen=True)
class Tree:
    """Files in a directory."""

    root: Path

    def listing(self, folder: str) -> list[str]:
        path = self.root / folder
        return sorted(item.name for item in path.iterdir()) if path.is_dir() else []

    def content(self, path: str) -> bytes | None:
        place = self.root / path
        return place.read_bytes() if place.is_file() else None


@dataclass(frozen=True)
class Item:
    """A line of the menu."""

    folder: str
    file: str
    stem: str
    end: str
    left: int
    done: int
    sort_key: str
    machine: str
    version: str
    options: str
    loads: tuple[str, ...]

    def called(self, counted_names: bool) -> str:
        return (self.file if counted_names else self.stem + self.end).lower()


class NothingToBootError(Exception):
    """There is no entry at all."""


def menu(files: Files, *, counted_names: bool = False) -> list[Item]:
    """Return the menu's lines, the default first."""
    items = [item for name in files.listing("loader/entries") if (item := _conf(files, name))]
    items += [item for name in files.listing("EFI/Linux") if (item := _image(files, name))]
    return sorted(items, key=functools.cmp_to_key(lambda a, b: _order(a, b, counted_names)))


def next_boot(files: Files, *, counted_names: bool = False) -> Item:
    """Return what boots by itself.

    Raises:
        NothingToBootError: there is no entry.
    """
    lines = menu(files, counted_names=counted_names)
    if not lines:
        raise NothingToBootError
    return lines[0]


def boot(root: Path, *, counted_names: bool = False) -> Item:
    """Pick an entry and count the boot in its name; return it with the name that it had."""
    item = next_boot(Tree(root), counted_names=counted_names)
    if item.left >= 0:
        after = f"{item.stem}+{max(item.left - 1, 0)}-{item.done + 1}{item.end}"
        (root / item.folder / item.file).rename(root / item.folder / after)
    return item


def _split(name: str) -> tuple[str, str, int, int] | None:
    found = NAME.fullmatch(name)
    if not found or name[0] == "." or name.startswith("auto-"):
        return None
    left = -1 if found["left"] is None else int(found["left"])
    return found["stem"], found["end"], left, int(found["done"] or 0)


def _conf(files: Files, name: str) -> Item | None:
    parts, raw = _split(name), files.content(f"loader/entries/{name}")
    if parts is None or parts[1].lower() != ".conf" or raw is None:
        return None
    keys: dict[str, list[str]] = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        words = line.strip().split(None, 1)
        if len(words) == 2 and not words[0].startswith("#"):
            keys.setdefault(words[0], []).append(words[1])
    program = next((keys[key][-1] for key in ("linux", "efi", "uki") if key in keys), None)
    loads = tuple(path.lstrip("/") for path in [program or "", *keys.get("initrd", [])])
    if program is None or files.content(loads[0]) is None:
        return None
    last = {key: values[-1] for key, values in keys.items()}
    return Item(
        "loader/entries", name, *parts, last.get("sort-key", ""), last.get("machine-id", ""), last.get("version", ""),
        " ".join(keys.get("options", [])), loads,
    )  # fmt: skip


def _image(files: Files, name: str) -> Item | None:
    parts, raw = _split(name), files.content(f"EFI/Linux/{name}")
    if parts is None or parts[1].lower() != ".efi" or raw is None or raw[:2] != b"MZ":
        return None
    sections = pe_sections(raw)
    release = dict(
        line.split("=", 1)
        for line in sections.get(".osrel", b"").decode("utf-8", "replace").splitlines()
        if "=" in line
    )
    version = release.get("IMAGE_VERSION") or release.get("VERSION") or release.get("VERSION_ID") or ""
    if not release.get("PRETTY_NAME") and not release.get("ID"):
        return None
    key = release.get("IMAGE_ID") or release.get("ID") or ""
    options = sections.get(".cmdline", b"").rstrip(b"\0").decode("utf-8", "replace")
    return Item("EFI/Linux", name, *parts, key, "", version, options, (f"EFI/Linux/{name}",))


def pe_sections(raw: bytes) -> dict[str, bytes]:
    """Return the sections of a PE file by name."""
    (start,) = struct.unpack_from("<I", raw, 60)
    (count,), (optional,) = struct.unpack_from("<H", raw, start + 6), struct.unpack_from("<H", raw, start + 20)
    found = {}
    for index in range(count):
        name, size, _, stored, offset = struct.unpack_from("<8sIIII", raw, start + 24 + optional + 40 * index)
        found[name.rstrip(b"\0").decode()] = raw[offset : offset + min(size, stored)]
    return found


def _order(a: Item, b: Item, counted_names: bool) -> int:
    for one, two in ((a.left == 0, b.left == 0), (not a.sort_key, not b.sort_key)):
        if one != two:
            return int(one) - int(two)
    if a.sort_key:
        for one_text, two_text in ((a.sort_key, b.sort_key), (a.machine, b.machine)):
            if one_text != two_text:
                return -1 if one_text < two_text else 1
        by_version = versions(b.version, a.version)
        if by_version:
            return by_version
    by_name = versions(b.called(counted_names), a.called(counted_names))
    if by_name or a.left < 0 or b.left < 0:
        return by_name
    return b.left - a.left or a.done - b.done


@functools.cache
def versions(a: str, b: str) -> int:
    """Compare two versions as systemd's own tool does."""
    if a == b:
        return 0
    command = ["systemd-analyze", "compare-versions", "--", a, b]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    verdict = {11: 1, 0: 0, 12: -1}.get(done.returncode)
    if verdict is None:
        raise AssertionError(f"systemd-analyze: {done.returncode} {done.stderr}")
    return verdict
