"""The real daemon on the benchmark's disk: `updated --once` against update-server, watched for its peak memory."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.lab import Disk
from tests.bench.measure import Cost, measure
from tests.bench.ours import CHANNEL, PRODUCT
from tests.bench.releases import Release
from tests.support.machine import Machine
from tests.support.processes import Process, tool
from updated.server.catalogue import Catalogue

UNIT = Path(__file__).parents[2] / "systemd/updated.service"
NEED_REBOOT = 12  # what `updated --once` exits with when an update is in place


@contextmanager
def update_server(release: Release, directory: Path) -> Iterator[str]:
    """Offer a release by the product's own server; yield its URL."""
    directory.mkdir()
    (directory / release.payload.name).symlink_to(release.payload.resolve())
    described = release.payload.with_suffix(".release.json")
    for path in (described, *([release.payload.with_suffix(".index")] if release.index_size else [])):
        shutil.copy(path, directory)
    Catalogue(directory).publish(directory / described.name, CHANNEL)
    process = Process(
        [*tool("update-server"), "serve", str(directory), "--listen", "127.0.0.1:0"], directory / "server.log"
    )
    try:
        yield process.wait_log("listening on").split()[-1]
    finally:
        process.stop()


def unit_environment() -> dict[str, str]:
    """Return what the daemon's unit sets in its environment."""
    lines = UNIT.read_text().splitlines()
    settings = [line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")]
    return dict(setting.split("=", 1) for setting in settings)


def update_once(root: Path, url: str, disk: Disk, keys: Path) -> Cost:
    """Let a fresh host update itself; see that the new image is in place."""
    disk.wipe()
    machine = Machine(root, server=url, product=PRODUCT, bus="")
    machine.disk.symlink_to(disk.device)
    for key in keys.iterdir():
        shutil.copy(key, root / "keys")
    (root / "cmdline").write_text(f"root=PARTUUID={disk.running.partuuid} ro\n")
    (root / "boot_id").write_text(f"{uuid.uuid4()}\n")
    release = root / "booted/usr/lib/os-release"
    release.parent.mkdir(parents=True)
    release.write_text("ID=bench-os\nVERSION_ID=1.0.0\n")
    check = root / "booted/usr/libexec/health-check"
    check.parent.mkdir()
    check.write_text("#!/bin/sh\n")
    cost = measure([*tool("updated"), "--once"], env={**machine.env, **unit_environment()}, good=(NEED_REBOOT,))
    disk.check()
    return cost
