"""Short ways to a boot control on a test disk."""

from __future__ import annotations

from pathlib import Path

from tests.support.bootloader import choose_from, valid_copies
from tests.support.crashes import MemoryDisk
from updated.slots.boot.gptprio import GptPrio
from updated.slots.layout import Slot


def partuuid_of(data: bytes, label: str) -> str:
    """Return a slot's PARTUUID as the boot loader model reads it."""
    return next(slot.partuuid for slot in valid_copies(data)[0].slots() if slot.label == label)


def control(disk: MemoryDisk, booted: str) -> GptPrio:
    """Return a boot control on a medium in memory that runs from the slot with this PARTUUID."""
    return GptPrio(Path("memory"), booted_partuuids=(booted,), open_disk=disk.open)


def other_slot(boot: GptPrio) -> Slot:
    """Return the slot that doesn't run."""
    running = boot.booted().partuuid
    return next(slot for slot in boot.slots() if slot.partuuid != running)


def picked(data: bytes) -> str:
    """Return the label of what would boot."""
    return choose_from(data).label
