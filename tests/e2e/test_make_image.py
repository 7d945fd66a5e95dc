"""`make image` leaves what it says: a disk whose boot loader finds release 1.0.0 in slot A, and nothing in slot B."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fixtures.image.programs import output
from tests.e2e import screen
from tests.support.bootloader import choose
from tests.support.vm.able import needs_virtual_machine
from tests.support.vm.disk import MachineDisk, digest_of
from tests.support.vm.machine import PRODUCT

pytestmark = [needs_virtual_machine(), pytest.mark.timeout(1800)]


def test_make_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The disk has two slots, slot A as a factory leaves it and an entry for it, and settings that name a server."""
    monkeypatch.setattr(screen, "OUT", tmp_path / "out")
    assert screen.make_image() == 0
    path = tmp_path / "out/disk.img"
    assert str(path) in capsys.readouterr().out
    told = output("sfdisk", "--dump", path)
    rows = re.findall(r'start= *(\d+), size= *(\d+), .*name="([A-Z-]+)"', told)
    disk = MachineDisk(path, {name: (int(start) * 512, int(size) * 512) for start, size, name in rows})
    assert list(disk.places) == ["ESP", "USR-A", "USR-B", "VAR"]
    assert disk.places["USR-A"][1] == disk.places["USR-B"][1]
    assert (choose(path).label, disk.slot("USR-B").may_boot) == ("USR-A", False)
    assert disk.digest("USR-A") == digest_of(screen.system(screen.FIRST).image)
    assert disk.esp_names("loader/entries") == ["slot-a.conf"]
    assert "root=PARTLABEL=USR-A " in disk.esp_file("loader/entries/slot-a.conf").decode()
    settings = tomllib.loads(disk.var_file("lib/machine/updated.toml", tmp_path / "scratch") or "")
    assert settings["slots"]["boot_loader"] == "systemd-boot"
    assert (settings["server"]["product"], str(screen.PORT) in settings["server"]["url"]) == (PRODUCT, True)
    assert (tmp_path / "out/firmware.fd").stat().st_size > 0
