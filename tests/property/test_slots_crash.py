"""A power cut, or a failing medium, at any point of a change of the partition table."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bootloader import NothingBootableError, eligible_anywhere, valid_copies
from tests.support.campaign import scale
from tests.support.crashes import MemoryDisk, crash_states
from tests.support.disks import Bits, make_disk
from tests.support.slots import control, other_slot, partuuid_of, picked
from updated.errors import ErrorCode, LocalError
from updated.slots.boot.gptprio import GptPrio

pytestmark = pytest.mark.timeout(scale(300, 3600))
SLOT_BYTES = 16 * 1024
SECTOR = 512
LABELS = ("USR-A", "USR-B")
VERBS: dict[str, Callable[[GptPrio], None]] = {
    "unmark": lambda boot: boot.unmark(other_slot(boot)),
    "arm": lambda boot: boot.arm(other_slot(boot), 3),
    "confirm": lambda boot: boot.confirm(boot.booted()),
}
DAMAGES = ("none", "primary-header", "primary-entries", "backup-header", "backup-entries", "backup-newer")


def make_state(folder: Path, chance: random.Random, running: str, damage: str, verb: str) -> bytes:
    """Make a disk with a chosen damage and random boot bits; only `confirm` meets a running slot that is unproven."""
    proven = verb != "confirm" or chance.random() < 0.3
    mine = Bits(chance.randint(1, 14), 0 if proven else chance.randint(1, 3), proven)
    other = Bits(chance.randint(0, 15 if verb != "arm" else 14), chance.randint(0, 3), chance.random() < 0.5)
    rest = LABELS[1 - LABELS.index(running)]
    path = folder / f"{chance.getrandbits(64):x}.img"
    return damaged(make_disk(path, SLOT_BYTES, bits={running: mine, rest: other}).read_bytes(), damage, running)


def damaged(data: bytes, damage: str, running: str) -> bytes:
    """Return the disk with one copy broken, or cut between the two copies of an earlier change."""
    primary, backup = valid_copies(data)
    places = {
        "primary-header": primary.lba * SECTOR + 40,
        "primary-entries": primary.entries_lba * SECTOR + 50,
        "backup-header": backup.lba * SECTOR + 40,
        "backup-entries": backup.entries_lba * SECTOR + 50,
    }
    disk = MemoryDisk(bytearray(data))
    if damage in places:
        disk.data[places[damage]] ^= 0xFF
    if damage == "backup-newer":
        boot = control(disk, partuuid_of(data, running))
        disk.fail_at = 2  # the backup's entries and header are written, the primary's not
        try:
            boot.confirm(boot.booted())
        except LocalError:
            assert len({copy.entries for copy in valid_copies(bytes(disk.data))}) == 2
    return bytes(disk.data)


def entries_of(data: bytes, label: str) -> list[bytes]:
    """Return a slot's raw entry as each valid copy has it."""
    found = []
    for copy in valid_copies(data):
        index = next(slot.index for slot in copy.slots() if slot.label == label)
        found.append(copy.entries[index * copy.entry_size : (index + 1) * copy.entry_size])
    return found


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("running", LABELS)
def test_a_cut_during_a_change_leaves_a_choice(tmp_path: Path, damage: str, verb: str, running: str) -> None:
    """Cut anywhere, reordered or torn: a slot boots, the running entry is unchanged, the change can be done again."""
    chance = random.Random(f"{damage} {verb} {running}")
    for _ in range(scale(2, 60)):
        before = make_state(tmp_path, chance, running, damage, verb)
        own, booted = entries_of(before, running), partuuid_of(before, running)
        disk = MemoryDisk(bytearray(before))
        VERBS[verb](control(disk, booted))
        final = [copy.entries for copy in valid_copies(bytes(disk.data))]
        assert len(final) == 2 or not disk.log
        for state in crash_states(before, disk, chance, 20):
            picked(state)
            assert running in eligible_anywhere(state)
            if verb != "confirm":
                assert set(entries_of(state, running)) <= set(own)
            again = MemoryDisk(bytearray(state))
            VERBS[verb](control(again, booted))
            assert {copy.entries for copy in valid_copies(bytes(again.data))} == set(final)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_change_promises_holds_in_every_copy(tmp_path: Path, damage: str) -> None:
    """Un-marked means that no copy boots the slot, armed that it boots next, confirmed that the running one does."""
    chance = random.Random(damage)
    for running in LABELS * scale(3, 40):
        rest = LABELS[1 - LABELS.index(running)]
        before = make_state(tmp_path, chance, running, damage, "arm")
        disk = MemoryDisk(bytearray(before))
        boot = control(disk, partuuid_of(before, running))
        boot.unmark(other_slot(boot))
        assert eligible_anywhere(bytes(disk.data)) == {running}
        boot.arm(other_slot(boot), 2)
        assert picked(bytes(disk.data)) == rest
        boot.unmark(other_slot(boot))
        boot.confirm(boot.booted())
        assert picked(bytes(disk.data)) == running


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_medium_that_fails_at_any_write_still_boots(tmp_path: Path, damage: str, verb: str) -> None:
    """Whichever write fails, the error is reported, a slot boots, and the change works once the medium does."""
    chance = random.Random(verb + damage)
    for number in range(4):
        before = make_state(tmp_path, chance, "USR-A", damage, verb)
        booted = partuuid_of(before, "USR-A")
        whole = MemoryDisk(bytearray(before))
        VERBS[verb](control(whole, booted))
        disk = MemoryDisk(bytearray(before), fail_at=number)
        if whole.log:
            with pytest.raises(LocalError) as caught:
                VERBS[verb](control(disk, booted))
            assert caught.value.code is ErrorCode.BOOT_CONTROL
        picked(bytes(disk.data))
        disk.fail_at = None
        VERBS[verb](control(disk, booted))
        assert {copy.entries for copy in valid_copies(bytes(disk.data))} == {
            copy.entries for copy in valid_copies(bytes(whole.data))
        }


class Release:
    """The steps of an install on a medium in memory: old content in both slots, new content into B."""

    def __init__(self, folder: Path) -> None:
        bits = {"USR-A": Bits(1, successful=True), "USR-B": Bits(2, successful=True)}
        chance = random.Random(7)
        self.old, self.new = chance.randbytes(SLOT_BYTES), chance.randbytes(SLOT_BYTES)
        image = folder / "old.img"
        image.write_bytes(self.old)
        path = make_disk(folder / "disk.img", SLOT_BYTES, dict.fromkeys(LABELS, image), bits=bits)
        self.before = path.read_bytes()
        self.disk = MemoryDisk(bytearray(self.before))
        self.boot = control(self.disk, partuuid_of(self.before, "USR-A"))
        self.slot = other_slot(self.boot)

    def write(self) -> None:
        for at in range(0, SLOT_BYTES, SECTOR):
            self.disk.write(self.slot.offset + at, self.new[at : at + SECTOR])

    def broken(self, chance: random.Random) -> list[str]:
        """Return what is wrong with any state that a cut may leave."""
        return [
            fault
            for state in crash_states(self.before, self.disk, chance, scale(100, 3000))
            if (fault := self.judge(state))
        ]

    def judge(self, state: bytes) -> str:
        try:
            picked(state)
        except NothingBootableError as error:
            return str(error)
        content = state[self.slot.offset : self.slot.offset + SLOT_BYTES]
        torn = content not in (self.old, self.new)
        return "a torn slot may boot" if torn and "USR-B" in eligible_anywhere(state) else ""


def test_a_cut_during_an_install_never_leaves_a_torn_slot_bootable(tmp_path: Path) -> None:
    """Un-mark, write, flush, arm: at no cut may any slot boot, by either copy, whose content isn't complete."""
    release = Release(tmp_path)
    release.boot.unmark(release.slot)
    release.write()
    release.disk.flush()
    release.boot.arm(release.slot, 1)
    assert release.broken(random.Random(3)) == []
    assert picked(bytes(release.disk.data)) == "USR-B"


def wrong_no_unmark(release: Release) -> None:
    release.write()
    release.disk.flush()
    release.boot.arm(release.slot, 1)


def wrong_no_flush_of_data(release: Release) -> None:
    release.boot.unmark(release.slot)
    release.write()
    release.boot.arm(release.slot, 1)


def wrong_arm_first(release: Release) -> None:
    release.boot.unmark(release.slot)
    release.boot.arm(release.slot, 1)
    release.write()
    release.disk.flush()


def wrong_unflushed_tables(release: Release) -> None:
    release.boot.unmark(release.slot)
    release.disk.log = [entry for entry in release.disk.log if entry is not None]


def wrong_unflushed_unmark(release: Release) -> None:
    release.boot.unmark(release.slot)
    del release.disk.log[-1]
    release.write()
    release.disk.flush()


@pytest.mark.parametrize(
    "wrong",
    [wrong_no_unmark, wrong_no_flush_of_data, wrong_arm_first, wrong_unflushed_tables, wrong_unflushed_unmark],
)
def test_the_judge_sees_wrong_orders(tmp_path: Path, wrong: Callable[[Release], None]) -> None:
    """An install that does one step too early, or leaves a flush out, is found out: the test above can fail."""
    release = Release(tmp_path)
    wrong(release)
    assert release.broken(random.Random(3)) != []
