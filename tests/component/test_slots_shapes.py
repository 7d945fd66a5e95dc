"""Partition tables of every shape that GPT allows, with cgpt, sgdisk, sfdisk and an independent model as judges."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.bootloader import boot, valid_copies
from tests.support.disks import ENV, Bits, make_disk
from tests.support.slots import other_slot, partuuid_of
from tests.support.tables import reshape
from updated.slots.boot.gptprio import GptPrio

SHAPES = [(128, 128, 92), (128, 4, 92), (128, 56, 92), (128, 1024, 92), (128, 128, 96), (128, 128, 512), (256, 128, 92),
          (512, 16, 128), (1024, 128, 92), (2048, 7, 92), (4096, 128, 500)]  # fmt: skip


def judged(*argv: str | Path) -> str:
    return subprocess.run(list(map(str, argv)), env=ENV, check=True, capture_output=True, text=True).stdout


def running_from(disk: Path, label: str) -> GptPrio:
    return GptPrio(disk, booted_partuuids=(partuuid_of(disk.read_bytes(), label),))


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize(("entry_size", "count", "header_size"), SHAPES)
def test_every_shape_is_updated(
    tmp_path: Path, entry_size: int, count: int, header_size: int, sector_size: int
) -> None:
    """Armed, booted, confirmed; only boot bits change, tails of entries and headers and all else stay as they were."""
    disk = make_disk(
        tmp_path / "disk.img", 256 * 1024, bits={"USR-A": Bits(1, successful=True)}, sector_size=sector_size
    )
    reshape(disk, entry_size=entry_size, count=count, header_size=header_size)
    before = valid_copies(disk.read_bytes())
    assert [(copy.entry_size, len(copy.entries)) for copy in before] == [(entry_size, entry_size * count)] * 2
    control = running_from(disk, "USR-A")
    control.unmark(other_slot(control))
    control.arm(other_slot(control), 2)
    assert boot(disk).label == "USR-B"
    after = running_from(disk, "USR-B")
    after.confirm(after.booted())
    assert [boot(disk).label for _ in range(2)] == ["USR-B"] * 2
    for old, new in zip(before, valid_copies(disk.read_bytes()), strict=True):
        assert without_bits(old.entries, entry_size) == without_bits(new.entries, entry_size)
        assert (old.header[20:88], old.header[92:]) == (new.header[20:88], new.header[92:])
        assert len(new.header) == header_size


def without_bits(entries: bytes, size: int) -> list[bytes]:
    rows = [entries[at : at + size] for at in range(0, len(entries), size)]
    return [row[:48] + row[56:] for row in rows]


@pytest.mark.parametrize("count", [4, 128, 1024])
def test_the_tools_agree(tmp_path: Path, count: int) -> None:
    """sgdisk, sfdisk and cgpt find nothing wrong with what was written, and cgpt reads the bits."""
    disk = make_disk(tmp_path / "disk.img", 256 * 1024, bits={"USR-A": Bits(1, successful=True)})
    reshape(disk, entry_size=128, count=count, header_size=92)
    control = running_from(disk, "USR-A")
    control.arm(other_slot(control), 5)
    assert "No problems found" in judged("sgdisk", "-v", disk)
    assert "No errors detected" in judged("sfdisk", "--verify", disk)
    if count == 128:  # cgpt takes no others
        assert "INVALID" not in judged("cgpt", "show", "-v", disk).upper()
        bits = int(judged("cgpt", "show", "-i", "3", "-A", disk).strip(), 0)
        assert (bits & 15, bits >> 4 & 15, bits >> 8 & 1) == (2, 5, 0)


def test_the_bits_of_the_docs_are_what_the_agent_takes(tmp_path: Path) -> None:
    """The first bits that docs/boot-loaders.md gives, by cgpt or sfdisk, make A the proven slot and B un-bootable."""
    text = (Path(__file__).parents[2] / "docs/boot-loaders.md").read_text()
    assert 'attrs="GUID:48,56"' in text
    by_sfdisk = make_disk(tmp_path / "one.img", 256 * 1024, bits={"USR-A": Bits(1, successful=True)})
    by_cgpt = make_disk(tmp_path / "two.img", 256 * 1024, bits={})
    for line in ("cgpt add -i 3 -P 1 -T 0 -S 1", "cgpt add -i 4 -P 0 -T 0 -S 0"):
        assert line in text
        words = line.replace("-i 3", "-i 2").replace("-i 4", "-i 3").split()  # as make_disk numbers them
        judged(*words, by_cgpt)
    for disk in (by_sfdisk, by_cgpt):
        control = running_from(disk, "USR-A")
        assert [(slot.priority, slot.tries, slot.successful) for slot in control.slots()] == [
            (1, 0, True),
            (0, 0, False),
        ]
