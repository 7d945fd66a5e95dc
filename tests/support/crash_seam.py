"""Stands between the product and the kernel: every change of a folder's files, in order, and faults on demand.

The functions of `os` that change files are replaced while the seam is open. What they do to files, or to names, below
the watched folder is done for real and noted; a flush is only noted, for what a cut would leave is computed. Calls on
anything else pass through. Nothing can go by unseen: `Seam.check` builds the folder anew from what was noted and
compares.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from unittest.mock import patch

Kind = Literal["write", "truncate", "flush", "create", "mkdir", "rename", "unlink"]
ROOT = 0  # the watched folder's node
MEDIUM_BYTES = 512 * 1024  # a file that is larger is a medium: a disk and its partitions, each a device of its own


class Killed(BaseException):
    """The process is gone; nothing that runs after it reaches the disk."""


@dataclass(frozen=True, slots=True)
class Op:
    """One change: of a file's content (`write`, `truncate`), of a folder's names, or a `flush` of either."""

    kind: Kind
    node: int  # the file, or the folder whose names change
    offset: int = 0  # of a write; the new size of a truncate
    data: bytes = b""
    name: str = ""
    child: int = 0  # who gets the name
    was: str = ""  # of a rename: the name before
    device: int = 0  # of a medium: through which device node it was opened; a flush of one isn't a flush of another


@dataclass(slots=True)
class Tree:
    """Files and folders by node."""

    files: dict[int, bytes] = field(default_factory=dict)
    dirs: dict[int, dict[str, int]] = field(default_factory=dict)

    def paths(self, node: int = ROOT, prefix: str = "") -> dict[str, int]:
        """Return the nodes by path; a folder's path ends in a slash."""
        found = {}
        for name, child in self.dirs[node].items():
            if child in self.dirs:
                found[f"{prefix}{name}/"] = child
                found |= self.paths(child, f"{prefix}{name}/")
            else:
                found[prefix + name] = child
        return found

    def render(self) -> dict[str, bytes]:
        """Return the contents by path; folders are empty."""
        return {path: self.files.get(node, b"") for path, node in self.paths().items()}


def apply_content(content: bytes, op: Op) -> bytes:
    """Return what a write or truncate makes of a file."""
    if op.kind == "truncate":
        return content[: op.offset].ljust(op.offset, b"\0")
    end = op.offset + len(op.data)
    return content[: op.offset].ljust(op.offset, b"\0") + op.data + content[end:]


def apply_name(names: dict[str, int], op: Op) -> dict[str, int]:
    """Return what a change of names makes of a folder."""
    if op.kind == "unlink":
        return {name: node for name, node in names.items() if name != op.name}
    kept = {name: node for name, node in names.items() if not (op.kind == "rename" and name == op.was)}
    return kept | {op.name: op.child}


# Told of each change before it is made, with its number from 0. It may raise; for a write it may return other bytes to
# write instead (fewer: a short write; of the same length: a medium that lies).
Fault = Callable[[int, Op], "bytes | None"]


class Seam:
    """A context manager; `direct` False refuses O_DIRECT, as some file systems do."""

    def __init__(self, root: Path, *, direct: bool = True, fault: Fault | None = None) -> None:
        self.root, self.log = root, list[Op]()
        self.dead = False
        self._direct, self._fault = direct, fault
        self._nodes: dict[tuple[int, int], int] = {}
        self._devices: dict[int, int] = {}  # by descriptor
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._patches = ExitStack()
        self._real: dict[str, Callable[..., Any]] = {}
        self.start = self._scan()

    def __enter__(self) -> Self:
        for name in ("open", "fdopen", "write", "pwrite", "pwritev", "fsync", "fdatasync", "ftruncate", "mkdir"):
            self._put(name, getattr(self, f"_{name}"))
        for name in ("replace", "rename"):
            self._put(name, self._rename)
        for name in ("unlink", "remove"):
            self._put(name, self._unlink)
        return self

    def _put(self, name: str, replacement: Callable[..., Any]) -> None:
        self._real[name] = getattr(os, name)
        self._patches.enter_context(patch.object(os, name, replacement))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patches.close()

    def _scan(self) -> Tree:
        tree, todo = Tree(dirs={ROOT: {}}), [(self.root, ROOT)]
        self._know(self.root, ROOT)
        while todo:
            folder, number = todo.pop()
            for path in sorted(folder.iterdir()):
                node = self._know(path)
                tree.dirs[number][path.name] = node
                if path.is_dir():
                    tree.dirs[node] = {}
                    todo.append((path, node))
                else:
                    tree.files[node] = path.read_bytes()
        self._last = len(self._nodes)
        return tree

    def _know(self, path: Path, node: int | None = None) -> int:
        found = path.lstat()
        number = len(self._nodes) if node is None else node
        self._nodes[found.st_dev, found.st_ino] = number
        return number

    def _new_node(self) -> int:
        self._last += 1
        return self._last

    def _of_fd(self, fd: int) -> int | None:
        found = os.fstat(fd)
        return self._nodes.get((found.st_dev, found.st_ino))

    def _of_path(self, path: Path) -> int | None:
        try:
            found = path.stat(follow_symlinks=False)
        except OSError:
            return None
        return self._nodes.get((found.st_dev, found.st_ino))

    def _before(self, op: Op) -> Op:
        """Look whether the change may be made, and return it as it will be."""
        if self.dead:
            raise Killed
        try:
            other = self._fault(len(self.log), op) if self._fault else None
        except Killed:
            self.dead = True
            raise
        return op if other is None else replace(op, data=other)

    def _device(self, node: int, fd: int) -> int:
        return self._devices.get(fd, 0) if len(self.start.files.get(node, b"")) >= MEDIUM_BYTES else 0

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._lock:
            fd = self._open_and_note(path, flags, mode, dir_fd)
            same = str(path).rpartition("/proc/self/fd/")[2] if isinstance(path, str) else ""
            known = self._devices.get(int(same)) if same.isdigit() else None
            self._devices[fd] = known or next(self._numbers)
            return fd

    def _open_and_note(self, path: Any, flags: int, mode: int, dir_fd: int | None) -> int:
        real = self._real["open"]
        if flags & os.O_DIRECT and not self._direct:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if dir_fd is not None or not flags & (os.O_CREAT | os.O_TRUNC):
            return int(real(path, flags, mode, dir_fd=dir_fd))
        place = Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve would follow a link in the last part
        folder, known = self._of_path(place.parent), self._of_path(place)
        op = None
        if folder is not None and flags & os.O_CREAT and not os.path.lexists(place):
            op = self._before(Op("create", folder, name=place.name, child=self._new_node()))
        elif known is not None and flags & os.O_TRUNC:
            op = self._before(Op("truncate", known))
        fd = int(real(path, flags, mode))
        if op is not None:
            if op.kind == "create":
                self._know(place, op.child)
            self.log.append(op)
        return fd

    def _fdopen(self, fd: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self._of_fd(fd) is None or mode != "wb":
            return self._real["fdopen"](fd, mode, *args, **kwargs)
        return io.BufferedWriter(_Raw(self, fd))

    def _write(self, fd: int, data: Any) -> int:
        node = self._of_fd(fd)
        if node is None:
            return int(self._real["write"](fd, data))
        with self._lock:
            offset = os.lseek(fd, 0, os.SEEK_CUR)
            count = self._pwrite(fd, data, offset)
            os.lseek(fd, offset + count, os.SEEK_SET)
            return count

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        node = self._of_fd(fd)
        real = self._real["pwrite"]
        if node is None:
            return int(real(fd, data, offset))
        with self._lock:
            asked = Op("write", node, offset, bytes(data), device=self._device(node, fd))
            op = self._before(asked)
            count = real(fd, data, offset) if op is asked else self._past_the_cache_or_not(fd, op)
            self.log.append(replace(op, data=op.data[:count]))
            return int(count)

    def _past_the_cache_or_not(self, fd: int, op: Op) -> int:
        """Write bytes that aren't aligned, whatever the descriptor wants."""
        again = self._real["open"](f"/proc/self/fd/{fd}", os.O_WRONLY)
        try:
            return int(self._real["pwrite"](again, op.data, op.offset)) if op.data else 0
        finally:
            os.close(again)

    def _pwritev(self, fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if self._of_fd(fd) is None:
            return int(self._real["pwritev"](fd, buffers, offset, flags))
        return self._pwrite(fd, b"".join(bytes(buffer) for buffer in buffers), offset)

    def _fsync(self, fd: int) -> None:
        node = self._of_fd(fd)
        if node is None:
            self._real["fsync"](fd)
            return
        with self._lock:
            self.log.append(self._before(Op("flush", node, device=self._device(node, fd))))

    _fdatasync = _fsync

    def _ftruncate(self, fd: int, length: int) -> None:
        node = self._of_fd(fd)
        with self._lock:
            if node is not None and os.fstat(fd).st_size != length:
                self.log.append(self._before(Op("truncate", node, length)))
            self._real["ftruncate"](fd, length)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        place = Path(path)
        folder = self._of_path(place.parent)
        with self._lock:
            if folder is None or place.exists():
                self._real["mkdir"](path, mode, dir_fd=dir_fd)
                return
            op = self._before(Op("mkdir", folder, name=place.name, child=self._new_node()))
            self._real["mkdir"](path, mode)
            self._know(place, op.child)
            self.log.append(op)

    def _rename(self, src: Any, dst: Any, **kwargs: Any) -> None:
        old, new = Path(src), Path(dst)
        with self._lock:
            folder, child = self._of_path(old.parent), self._of_path(old)
            if folder is None or child is None:
                self._real["replace"](src, dst, **kwargs)
                return
            assert self._of_path(new.parent) == folder, "renames from folder to folder aren't modelled"
            op = self._before(Op("rename", folder, name=new.name, child=child, was=old.name))
            self._real["replace"](src, dst, **kwargs)
            self.log.append(op)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        place = Path(path)
        with self._lock:
            folder = self._of_path(place.parent) if dir_fd is None else None
            if folder is None or not os.path.lexists(place):
                self._real["unlink"](path, dir_fd=dir_fd)
                return
            op = self._before(Op("unlink", folder, name=place.name))
            self._real["unlink"](path)
            self.log.append(op)

    def check(self) -> None:
        """See that what was noted is all that happened.

        Raises:
            AssertionError: something was written past the seam.
        """
        tree = Tree(dict(self.start.files), dict(self.start.dirs))
        for op in self.log:
            play(tree, op)
        found = {
            str(path.relative_to(self.root)) + ("/" if path.is_dir() else ""): b""
            if path.is_dir()
            else path.read_bytes()
            for path in self.root.rglob("*")
            if stat.S_ISDIR(path.stat().st_mode) or path.is_file()
        }
        made = tree.render()
        assert made.keys() == found.keys(), made.keys() ^ found.keys()
        assert not [path for path in made if made[path] != found[path]], "written past the seam"


def play(tree: Tree, op: Op) -> None:
    """Let a change happen; a flush is none."""
    if op.kind in ("write", "truncate"):
        tree.files[op.node] = apply_content(tree.files[op.node], op)
    elif op.kind != "flush":
        if op.kind == "create":
            tree.files[op.child] = b""
        if op.kind == "mkdir":
            tree.dirs[op.child] = {}
        tree.dirs[op.node] = apply_name(tree.dirs[op.node], op)


class _Raw(io.RawIOBase):
    """What a buffered file writes to."""

    def __init__(self, seam: Seam, fd: int) -> None:
        super().__init__()
        self._seam, self._fd = seam, fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        return self._seam._write(self._fd, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)
