"""Real file system images, made by mkfs from a tree of real files: the release that a host runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

MIB = 1024 * 1024
ENV = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}  # mkfs and debugfs may be there

HEALTHY = '#!/bin/sh\ntest -s "$(dirname "$0")/../lib/os-release" || { echo "os-release is empty"; exit 1; }\n'
BROKEN = '#!/bin/sh\necho "the network driver of this release does not load"\nexit 1\n'


def make_tree(root: Path, version: str, *, healthy: bool = True, filler_bytes: int = 24 * MIB) -> Path:
    """Fill `root` with an operating system in small: os-release, a health check, and the standard library's files."""
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/libexec").mkdir()
    (root / "usr/lib/os-release").write_text(f'ID=demo-os\nNAME="Demo OS"\nVERSION_ID={version}\n')
    check = root / "usr/libexec/health-check"
    check.write_text(HEALTHY if healthy else BROKEN)
    check.chmod(0o755)
    _copy_files(Path(sysconfig.get_path("stdlib")), root / "usr/lib/python", filler_bytes)
    return root


def _copy_files(source: Path, target: Path, limit: int) -> None:
    left = limit
    for path in sorted(source.rglob("*.py")):
        size = path.stat().st_size
        if left < size or "site-packages" in path.parts or "test" in path.parts:
            continue
        left -= size
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def make_ext4(tree: Path, image: Path, size: int) -> Path:
    """Write an ext4 image of `size` bytes from a tree; no root needed."""
    image.touch()
    os.truncate(image, size)
    command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-L", "DEMO", "-d", str(tree), str(image)]
    subprocess.run(command, check=True, env=ENV, stdout=subprocess.DEVNULL)
    return image


def make_erofs(tree: Path, image: Path) -> Path:
    """Write an erofs image from a tree; no root needed."""
    subprocess.run(["mkfs.erofs", str(image), str(tree)], check=True, env=ENV, capture_output=True)
    return image


def dump_usr(disk: Path, offset: int, target: Path) -> None:
    """Read /usr out of the ext4 file system that begins at byte `offset` of `disk`; no root, no mount."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    command = ["debugfs", "-R", f"rdump /usr {target}", f"{disk}?offset={offset}"]
    done = subprocess.run(command, check=True, env=ENV, capture_output=True, text=True)
    assert (target / "usr").is_dir(), f"debugfs found no /usr: {done.stderr}"
