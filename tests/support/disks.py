"""Disks for tests: image files with a partition table made by the real sfdisk; nothing of the product takes part."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOTFS_TYPE = "5DFBF5F4-2848-4BAC-AA5E-0D9A20B745A6"
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
DATA_TYPE = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
USR_VERITY_TYPE = "77FF5F63-E7B6-4633-ACF4-1565B864C0E6"  # of x86-64, in systemd's list; ours goes by the label
LABELS = ("USR-A", "USR-B")
MIB = 1024 * 1024
EDGE = MIB  # free space before the first and after the last partition, for the two tables
SMALL_PARTITION = 64 * 1024  # the ESP before the slots and the data partition after them
ENV = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}  # sfdisk may be there


@dataclass(frozen=True)
class Bits:
    """A slot's boot bits as a test sets them up."""

    priority: int = 0
    tries: int = 0
    successful: bool = False

    @property
    def attrs(self) -> str:
        """The bits in sfdisk's notation, `GUID:48,56`."""
        fields = [48 + bit for bit in range(4) if self.priority >> bit & 1]
        fields += [52 + bit for bit in range(4) if self.tries >> bit & 1]
        fields += [56] if self.successful else []
        return "GUID:" + ",".join(map(str, fields)) if fields else ""


FIRST_BOOT = {"USR-A": Bits(priority=1, successful=True)}  # as a factory image leaves it: A runs, B is empty


def make_disk(
    path: Path,
    slot_bytes: int,
    images: Mapping[str, Path] | None = None,
    *,
    bits: Mapping[str, Bits] = FIRST_BOOT,
    labels: Sequence[str] = LABELS,
    sector_size: int = 512,
    hash_bytes: int = 0,
) -> Path:
    """Make a disk image: an ESP, the two slots, a data partition; slot contents from `images` by label.

    Args:
        path: the image file; it must not exist.
        slot_bytes: size of each slot, a multiple of 4096.
        images: what to write into a slot, by label; a slot without one is a hole.
        bits: boot bits by label; a label without any gets none.
        labels: the two slots' labels, A first.
        sector_size: 512 or 4096.
        hash_bytes: size of each slot's verity hash partition, LABEL-VERITY, behind the others; 0: there are none.
    """
    sizes = [SMALL_PARTITION, slot_bytes, slot_bytes, SMALL_PARTITION, *([hash_bytes] * 2 if hash_bytes else [])]
    with path.open("xb") as file:
        file.truncate(2 * EDGE + sum(sizes))
    starts = [EDGE + sum(sizes[:index]) for index in range(len(sizes))]
    lines = ["label: gpt", f"sector-size: {sector_size}", f"label-id: {uuid.uuid4()}"]
    rows = [("ESP", ESP_TYPE), *((label, ROOTFS_TYPE) for label in labels), ("DATA", DATA_TYPE)]
    rows += [(f"{label}-VERITY", USR_VERITY_TYPE) for label in labels] if hash_bytes else []
    for start, size, (name, kind) in zip(starts, sizes, rows, strict=True):
        attrs = bits[name].attrs if name in bits else ""
        extra = f', attrs="{attrs}"' if attrs else ""
        lines.append(
            f'start={start // sector_size}, size={size // sector_size}, type={kind}, uuid={uuid.uuid4()}, name="{name}"'
            + extra
        )
    _partition(path, "\n".join(lines) + "\n", sector_size)
    for label, image in (images or {}).items():
        put_image(path, starts[[name for name, _ in rows].index(label)], image)
    return path


def _partition(path: Path, script: str, sector_size: int) -> None:
    """Run the script by sfdisk; for other sectors than a file's usual 512 by its sister fdisk, which can be told."""
    command, told = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(path)], script
    with tempfile.NamedTemporaryFile("w") as file:
        if sector_size != 512:
            file.write(script)
            file.flush()
            command, told = ["fdisk", "--sector-size", str(sector_size), str(path)], f"I\n{file.name}\nw\n"
        subprocess.run(command, input=told, env=ENV, check=True, text=True, stdout=subprocess.DEVNULL)


def put_image(disk: Path, offset: int, image: Path) -> None:
    """Copy an image file into a disk at a byte offset."""
    with disk.open("r+b") as target, image.open("rb") as source:
        target.seek(offset)
        shutil.copyfileobj(source, target, MIB)
