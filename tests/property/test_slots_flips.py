"""One wrong bit anywhere in either copy of the partition table."""

from __future__ import annotations

import random

import pytest

from tests.support.bootloader import valid_copies
from tests.support.campaign import scale
from tests.support.crashes import MemoryDisk
from tests.support.disks import Bits, make_disk
from tests.support.slots import control, other_slot, partuuid_of, picked
from updated.errors import ErrorCode, LocalError
from updated.slots.layout import Slot

pytestmark = pytest.mark.timeout(scale(300, 3600))
HEADER_BITS = 92 * 8
USED_BITS = 4 * 128 * 8  # make_disk's four partitions
ARRAY_BITS = 128 * 128 * 8
SEED = 20240


@pytest.fixture(scope="module", params=[512, 4096])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A's the good slot; B was tried and failed."""
    path = tmp_path_factory.mktemp("flips") / "disk.img"
    bits = {"USR-A": Bits(priority=1, successful=True), "USR-B": Bits(priority=2)}
    return make_disk(path, 64 * 1024, bits=bits, sector_size=request.param).read_bytes()


def flips(data: bytes, unused: int) -> list[int]:
    """Return the positions, in bits, of all of both headers and used entries, and of some unused entries."""
    chance = random.Random(SEED)
    found: list[int] = []
    for copy in valid_copies(data):
        header, array = copy.lba * copy.sector * 8, copy.entries_lba * copy.sector * 8
        found += [header + bit for bit in range(HEADER_BITS)]
        found += [array + bit for bit in range(USED_BITS)]
        found += [array + bit for bit in chance.sample(range(USED_BITS, ARRAY_BITS), unused)]
    return found


def flip(disk: MemoryDisk, bit: int) -> None:
    disk.data[bit // 8] ^= 1 << bit % 8


def facts(slots: tuple[Slot, ...]) -> list[tuple[str, int, int, bool]]:
    return [(slot.partuuid, slot.priority, slot.tries, slot.successful) for slot in slots]


def test_every_flipped_bit_still_boots_and_reads_the_same(good: bytes) -> None:
    """Whichever single bit of either copy is wrong, the old slot boots and the agent sees the same slots."""
    disk = MemoryDisk(bytearray(good))
    boot = control(disk, partuuid_of(good, "USR-A"))
    expected = facts(boot.slots())
    tried = flips(good, scale(200, ARRAY_BITS - USED_BITS))
    for bit in tried:
        flip(disk, bit)
        assert picked(bytes(disk.data)) == "USR-A", f"bit {bit}"
        assert facts(boot.slots()) == expected, f"bit {bit}"
        flip(disk, bit)
    assert len(tried) >= 2 * (HEADER_BITS + USED_BITS)
    assert disk.log == []


def test_a_change_heals_every_flipped_bit(good: bytes) -> None:
    """Arming with one bit wrong leaves two good copies that boot the armed slot, and the running entry as it was."""
    chance, running = random.Random(SEED), partuuid_of(good, "USR-A")
    entry = raw_entry(good, "USR-A")
    for bit in chance.sample(flips(good, 200), scale(300, 6000)):
        disk = MemoryDisk(bytearray(good))
        flip(disk, bit)
        boot = control(disk, running)
        boot.arm(other_slot(boot), 1)
        copies = valid_copies(bytes(disk.data))
        assert len(copies) == 2, f"bit {bit}"
        assert copies[0].entries == copies[1].entries
        assert picked(bytes(disk.data)) == "USR-B"
        assert raw_entry(disk.data, "USR-A") == entry


def test_damage_is_mended_by_a_confirmed_boot_and_by_nothing_else(good: bytes) -> None:
    """Where a slot's bits are as they should be, un-marking writes nothing for a damaged copy; confirming mends it."""
    running = partuuid_of(good, "USR-A")
    done = MemoryDisk(bytearray(good))
    control(done, running).unmark(other_slot(control(done, running)))
    whole = [copy.entries for copy in valid_copies(bytes(done.data))]
    assert len(whole) == 2
    for bit in random.Random(SEED).sample(flips(bytes(done.data), 0), scale(200, 4000)):
        disk = done.copy()
        flip(disk, bit)
        boot = control(disk, running)
        boot.unmark(other_slot(boot))
        assert disk.log == [], f"bit {bit}"
        boot.confirm(boot.booted())
        assert [copy.entries for copy in valid_copies(bytes(disk.data))] == whole, f"bit {bit}"


def test_damage_in_both_copies_is_refused(good: bytes) -> None:
    """With both copies wrong nothing is believed and nothing is written."""
    chance = random.Random(SEED)
    per_copy = len(flips(good, 0)) // 2
    for _ in range(scale(100, 2000)):
        disk = MemoryDisk(bytearray(good))
        boot = control(disk, partuuid_of(good, "USR-A"))
        slot = other_slot(boot)
        first, second = flips(good, 0)[:per_copy], flips(good, 0)[per_copy:]
        flip(disk, chance.choice(first))
        flip(disk, chance.choice(second))
        with pytest.raises(LocalError) as caught:
            boot.arm(slot, 1)
        assert caught.value.code is ErrorCode.GPT_INVALID
        assert disk.log == []


def raw_entry(data: bytes | bytearray, label: str) -> bytes:
    copy = valid_copies(bytes(data))[0]
    index = next(slot.index for slot in copy.slots() if slot.label == label)
    return copy.entries[index * copy.entry_size : (index + 1) * copy.entry_size]
