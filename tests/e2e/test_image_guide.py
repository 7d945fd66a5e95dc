"""The page for image builders does what it says: its commands make a disk, and that disk's machine updates itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.image.disk import ESP_TYPE, ROOT_TYPE, VAR_TYPE
from fixtures.image.machine import kernel
from fixtures.image.programs import output
from fixtures.image.root import PACKAGES, root_tar
from tests.e2e.conftest import StartRow
from tests.support.etcd import free_port
from tests.support.guide import Shell, fits, steps_of
from tests.support.vm.able import needs_virtual_machine
from tests.support.vm.disk import MachineDisk, digest_of
from tests.support.vm.qemu import Guest, Hardware, Uefi
from updated.release.extract import inspect

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs/image-integration.md"
MIB = 1024 * 1024
ENTRIES = "loader/entries"
# the page's own mmdebstrap, of the same packages, from the cache
MMDEBSTRAP = """#!/bin/sh
mkdir "$5" && tar --numeric-owner -C "$5" -xpf {tar} && mkdir -p "$5/boot" "$5/lib/modules" \
    && cp {image} "$5/boot/" && cp -r {modules} "$5/usr/lib/modules/" && depmod -b "$5" {release}
"""
pytestmark = [needs_virtual_machine(), pytest.mark.timeout(3600)]


class Built:
    """What the page's commands left in a folder, and the port of its server."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        places = {
            "ESP": (1 * MIB, 128 * MIB),
            "USR-A": (129 * MIB, 640 * MIB),
            "USR-B": (769 * MIB, 640 * MIB),
            "VAR": (1409 * MIB, 128 * MIB),
        }
        self.disk = MachineDisk(folder / "disk.img", places)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Run every command of the page, in order, in one shell; its server runs until the end."""
    folder, port = tmp_path_factory.mktemp("guide"), free_port()
    page = PAGE.read_text().replace("/usr/src/updated", str(CHECKOUT)).replace(":8080", f":{port}")
    steps = list(steps_of(page))
    assert len(steps) > 40
    _check_packages(next(step.command for step in steps if step.command.startswith("mmdebstrap")))
    with Shell(folder, {}) as shell:
        boots = kernel()
        shim = folder / "bin/mmdebstrap"
        tar = root_tar("bookworm")
        shim.write_text(MMDEBSTRAP.format(tar=tar, image=boots.image, modules=boots.modules, release=boots.release))
        shim.chmod(0o755)
        for step in steps:
            printed = shell.run(step.command)
            assert fits(step.expected, printed), f"$ {step.command}\n" + "\n".join(printed)
        yield Built(folder, port)


def _check_packages(command: str) -> None:
    """See that the page asks for what the cached root has, and the kernel."""
    words = shlex.split(command)
    (included,) = [word.removeprefix("--include=") for word in words if word.startswith("--include=")]
    assert set(included.split(",")) == {*PACKAGES, "linux-image-cloud-amd64"}
    assert words[-2:] == ["bookworm", "root"]


def test_every_command_of_the_page_prints_what_the_page_shows(built: Built) -> None:
    """From a root to a disk with two slots and a second release: the disk is what the page's table says."""
    told = output("sfdisk", "--dump", built.disk.path)
    rows = re.findall(r'size= *(\d+), type=([0-9A-F-]+), uuid=[0-9A-F-]+, name="([A-Z-]+)"(.*)', told)
    assert [(name, kind) for _, kind, name, _ in rows] == [
        ("ESP", ESP_TYPE), ("USR-A", ROOT_TYPE), ("USR-B", ROOT_TYPE), ("VAR", VAR_TYPE),
    ]  # fmt: skip
    slot_a = built.disk.slot("USR-A")
    assert (slot_a.priority, slot_a.tries, slot_a.successful) == (1, 0, True)
    assert not built.disk.slot("USR-B").may_boot
    assert built.disk.digest("USR-A") == digest_of(built.folder / "slot-1.0.0.img")
    assert built.disk.esp_names(ENTRIES) == ["slot-a.conf"]
    signed = inspect(built.folder / "releases/org.example.os-1.1.0.payload")
    assert [part["name"] for part in signed["partitions"]] == ["root", "kernel"]


@pytest.mark.long
def test_a_machine_from_the_page_updates_itself(built: Built, scenario: StartRow, tmp_path: Path) -> None:
    """The page's disk boots, takes release 1.1.0 from the page's server, and systemd-boot boots it, blessed."""
    row = scenario("vm systemd-boot", "image built by the guide")
    hardware = Hardware(built.disk.path, Uefi.fresh(tmp_path / "firmware.fd"), tmp_path / "serial.log", memory_mib=1024)
    with Guest(hardware) as guest:
        guest.wait_off("reboot into the new release", budget_secs=1200.0)
    row.booted("A")
    assert built.disk.digest("USR-B") == digest_of(built.folder / "slot-1.1.0.img")
    assert built.disk.esp_names(ENTRIES) == ["slot-a.conf", "slot-b+3.conf"]
    with Guest(hardware) as guest:
        guest.wait_for(lambda: _blessed(built.disk), "blessing on the disk")
    row.booted("B")
    machine_id = re.findall(r"systemd\.machine_id=(\w+)", _entry(built.disk, "slot-a") + _entry(built.disk, "slot-b"))
    assert len(machine_id) == 2
    assert len(set(machine_id)) == 1, "the machine's id goes along"
    assert (built.folder / "server.log").stat().st_size > 0


def _blessed(disk: MachineDisk) -> bool:
    """Tell whether slot B's entry has lost its counter; FAT writes a renamed file's size after its new name."""
    return disk.esp_names(ENTRIES) == ["slot-a.conf", "slot-b.conf"] and bool(_entry(disk, "slot-b"))


def _entry(disk: MachineDisk, name: str) -> str:
    return disk.esp_file(f"{ENTRIES}/{name}.conf").decode()
