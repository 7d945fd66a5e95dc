"""One fault at one change that an install makes: which change it was, and which error must be reported."""

from __future__ import annotations

import errno
import os
from typing import Literal

from tests.support.crash_host import HASH_BYTES, SLOT_BYTES
from tests.support.crash_seam import Killed, Op, Tree
from tests.support.disks import EDGE, SMALL_PARTITION
from updated.errors import ErrorCode
from updated.install.checkpoint import PAYLOAD

Kind = Literal["kill", "EIO", "ENOSPC", "short write", "other bytes"]
Place = Literal["slot", "table", "kernel", "state", "kept"]  # kept: a payload's bytes, without which it goes on
SLOTS = range(EDGE + SMALL_PARTITION, EDGE + SMALL_PARTITION + 2 * SLOT_BYTES)  # bytes of the disk
HASHES = range(SLOTS.stop + SMALL_PARTITION, SLOTS.stop + SMALL_PARTITION + 2 * HASH_BYTES)  # and of the slots' trees
CODES: dict[tuple[Kind, Place], ErrorCode] = {
    ("EIO", "slot"): ErrorCode.DOWNLOAD_WRITE,
    ("EIO", "kernel"): ErrorCode.DOWNLOAD_WRITE,
    ("EIO", "table"): ErrorCode.BOOT_CONTROL,
    ("EIO", "state"): ErrorCode.STATE,
    ("ENOSPC", "slot"): ErrorCode.NO_SPACE,
    ("ENOSPC", "kernel"): ErrorCode.NO_SPACE,
    ("ENOSPC", "table"): ErrorCode.BOOT_CONTROL,
    ("ENOSPC", "state"): ErrorCode.STATE,
    ("other bytes", "slot"): ErrorCode.PARTITION_HASH_MISMATCH,
    ("other bytes", "kernel"): ErrorCode.FILE_HASH_MISMATCH,
    ("other bytes", "table"): ErrorCode.GPT_INVALID,
}


class Injector:
    """Lets the change with a number fail; `hit` and `place` tell what it was, None while nothing has failed."""

    def __init__(self, kind: Kind, number: int) -> None:
        self.kind, self._number = kind, number
        self.hit: Op | None = None
        self.place: Place | None = None
        self._disk = self._boot = -1
        self._kernels, self._slots, self._kept = set[int](), set[int](), set[int]()

    def know(self, start: Tree) -> None:
        """Take in which nodes are what."""
        paths = start.paths()
        self._disk, self._boot = paths["disk.img"], paths["boot/"]
        self._kernels = {node for path, node in paths.items() if path.startswith("boot/")}

    def __call__(self, number: int, op: Op) -> bytes | None:
        """Be told of a change."""
        place = self._place(op)
        if number != self._number or self.hit is not None or not self._concerns(op, place):
            return None
        self.hit, self.place = op, place
        if self.kind == "kill":
            raise Killed
        if self.kind in ("EIO", "ENOSPC"):
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code))
        half = len(op.data) // 2
        return (
            op.data[:half]
            if self.kind == "short write"
            else bytes(byte ^ 1 for byte in op.data[:half]) + op.data[half:]
        )

    def _concerns(self, op: Op, place: Place) -> bool:
        if self.kind == "short write":
            return op.kind == "write"
        padding = not any(op.data)  # behind a kernel's end: it is cut off again
        return self.kind != "other bytes" or (op.kind == "write" and place not in ("state", "kept") and not padding)

    def _place(self, op: Op) -> Place:
        if op.kind == "write" and op.node == self._disk and (op.offset in SLOTS or op.offset in HASHES):
            self._slots.add(op.device)
        if op.kind == "create" and op.node == self._boot:
            self._kernels.add(op.child)
        if op.kind == "create" and op.name == PAYLOAD:
            self._kept.add(op.child)
        if op.node == self._disk:
            return "slot" if op.device in self._slots else "table"
        if op.node in self._kept or op.child in self._kept:
            return "kept"
        return "kernel" if op.node in self._kernels else "state"

    @property
    def code(self) -> ErrorCode | None:
        """Return what must be reported; None: nothing."""
        return CODES.get((self.kind, self.place)) if self.place else None
