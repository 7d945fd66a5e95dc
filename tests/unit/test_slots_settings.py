"""Settings of the slots that can't work are found when the files are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from updated.config import BOOT_LOADERS, load
from updated.errors import ErrorCode, LocalError


def read(tmp_path: Path, lines: str) -> None:
    path = tmp_path / "updated.toml"
    path.write_text(f"[slots]\n{lines}\n")
    load(path, {})


@pytest.mark.parametrize("name", BOOT_LOADERS)
def test_each_boot_loader_can_be_named(tmp_path: Path, name: str) -> None:
    """The three names of the docs are settings that are taken."""
    read(
        tmp_path,
        f'boot_loader = "{name}"\nverity_labels = ["HASH-A", "HASH-B"]\nkernel_path = "/boot/vmlinuz-{{slot}}"',
    )


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('boot_loader = "lilo"', "one of gptprio, systemd-boot, grub, not 'lilo'"),
        ('verity_labels = ["HASH-A"]', "two further partitions or none"),
        ('verity_labels = ["HASH-A", "HASH-A"]', "two further partitions or none"),
        ('verity_labels = ["USR-A", "HASH-B"]', "two further partitions or none"),
        ('labels = ["ONE", "ONE"]', "two partitions"),
        ('kernel_path = "/boot/vmlinuz"', "slots.kernel_path must have {slot} in it"),
        ('initrd_path = "/boot/initrd"', "slots.initrd_path must have {slot} in it"),
        ("tries = 0", "1 to 15"),
        ("tries = 16", "1 to 15"),
    ],
)
def test_what_can_not_work_is_refused(tmp_path: Path, lines: str, why: str) -> None:
    """A wrong name, a label too few or twice, a path that both slots would share: named, with the value."""
    with pytest.raises(LocalError) as caught:
        read(tmp_path, lines)
    assert caught.value.code is ErrorCode.CONFIG
    assert why in caught.value.message
