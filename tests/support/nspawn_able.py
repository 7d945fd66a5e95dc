"""Whether this machine can boot containers of whole systems; tried, not guessed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from tests.support.control_group import ControlGroup
from tests.support.disks import ENV

PROGRAMS = ("systemd-nspawn", "mmdebstrap", "losetup", "partx", "nsenter", "unshare", "mkfs.ext4", "journalctl")


@cache
def obstacle() -> str:
    """Return what is in the way, and what would help; empty if nothing is."""
    if os.geteuid() != 0:
        return "needs root (sudo make test)"
    missing = [name for name in PROGRAMS if shutil.which(name, path=ENV["PATH"]) is None]
    if missing:
        return f"needs {', '.join(missing)} (./bootstrap.sh test installs them on Debian)"
    try:
        group = ControlGroup(f"probe-{os.getpid()}")
    except (OSError, RuntimeError) as error:
        return f"needs a cgroup2 hierarchy that may be written ({error}); in a container: --privileged"
    group.remove()
    return _try_commands()


def _try_commands() -> str:
    with tempfile.TemporaryDirectory() as name:
        image, point = Path(name, "image"), Path(name, "mounted")
        point.mkdir()
        with image.open("wb") as file:
            file.truncate(4 * 1024 * 1024)
        for command, what in (
            (["unshare", "--fork", "--time", "--boottime", "1", "true"], "time namespaces of the kernel"),
            (["mkfs.ext4", "-q", "-F", str(image)], "mkfs.ext4"),
            (["mount", "-o", "loop", str(image), str(point)], "loop devices and the right to mount"),
            (["umount", str(point)], "the right to unmount"),
        ):
            done = subprocess.run(command, env=ENV, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                return f"needs {what} ({done.stderr.strip()}); in a container: --privileged"
    return ""


def needs_machine() -> pytest.MarkDecorator:
    """Return the mark of tests that boot one: skipped with the reason, or failed where REQUIRE_MACHINES=1 says so."""
    required = os.environ.get("REQUIRE_MACHINES") == "1"
    reason = "" if required else obstacle()
    return pytest.mark.skipif(bool(reason), reason=f"NOT TESTED HERE: a booted system in systemd-nspawn; it {reason}")
