"""Whether this machine can make and run virtual machines."""

from __future__ import annotations

import os
import platform
import shutil
from functools import cache
from pathlib import Path

import pytest

from fixtures.image.esp import SYSTEMD_BOOT
from fixtures.image.grub import PLATFORM
from fixtures.image.programs import PLACES
from tests.support.vm.qemu import OVMF_CODE

PROGRAMS = (
    "qemu-system-x86_64", "mmdebstrap", "apt-get", "debugfs", "e2fsck", "mkfs.vfat", "mcopy", "depmod", "strip",
    "objcopy", "busybox", "veritysetup", "grub-mkimage", "setpriv",
)  # fmt: skip
FILES = (OVMF_CODE, SYSTEMD_BOOT, PLATFORM / "boot.img")


@cache
def obstacle() -> str:
    """Return what is in the way, and what would help; empty if nothing is."""
    if platform.machine() != "x86_64":
        return f"needs x86-64, which {platform.machine()} isn't"
    if os.geteuid() != 0:
        return "needs root, for the images (sudo make e2e)"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PLACES) is None]
    missing += [str(path) for path in FILES if not Path(path).exists()]
    return f"needs {', '.join(missing)} (./bootstrap.sh test installs them on Debian)" if missing else ""


def needs_virtual_machine() -> pytest.MarkDecorator:
    """Return the mark of tests that run one: skipped with the reason, or failed where REQUIRE_MACHINES=1 says so."""
    required = os.environ.get("REQUIRE_MACHINES") == "1"
    reason = "" if required else obstacle()
    return pytest.mark.skipif(bool(reason), reason=f"NOT TESTED HERE: a virtual machine; it {reason}")
