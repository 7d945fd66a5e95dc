"""Boot control on image files, with cgpt and sfdisk as the second opinion."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.bootloader import boot as boot_loader
from tests.support.bootloader import choose, valid_copies
from tests.support.crashes import MemoryDisk
from tests.support.disks import EDGE, ENV, ROOTFS_TYPE, SMALL_PARTITION, Bits, make_disk
from tests.support.slots import control, other_slot, partuuid_of
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.slots.boot.gptprio import GptPrio
from updated.slots.layout import Layout

SLOT_BYTES = 256 * 1024
GOOD = Bits(priority=1, successful=True)


def run(*argv: str | Path) -> str:
    return subprocess.run(list(map(str, argv)), env=ENV, check=True, capture_output=True, text=True).stdout


def cgpt(disk: Path, slot: int, flag: str) -> str:
    """Ask ChromeOS's own tool; slots A and B are partitions 2 and 3 of make_disk."""
    return run("cgpt", "show", "-i", str(slot), flag, disk).strip()


def cgpt_bits(disk: Path, slot: int) -> tuple[int, int, int]:
    attributes = int(cgpt(disk, slot, "-A"), 0)
    return attributes & 15, attributes >> 4 & 15, attributes >> 8 & 1


def running_from(disk: Path, label: str = "USR-A") -> GptPrio:
    return GptPrio(disk, booted_partuuids=(partuuid_of(disk.read_bytes(), label),))


@pytest.fixture(params=[512, 4096])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_disk(tmp_path / "disk.img", SLOT_BYTES, bits={"USR-A": GOOD}, sector_size=request.param)


def test_an_update_and_a_fallback(disk: Path) -> None:
    """Un-mark, arm for one try, boot without a confirmation: the boot loader comes back to the old slot by itself."""
    boot = running_from(disk)
    boot.unmark(other_slot(boot))
    boot.arm(other_slot(boot), 1)
    assert [boot_loader(disk).label for _ in range(3)] == ["USR-B", "USR-A", "USR-A"]


def test_an_update_and_a_confirmation(disk: Path) -> None:
    """A confirmed boot stays, and the slot before it is what the boot loader falls back to."""
    boot = running_from(disk)
    boot.arm(other_slot(boot), 2)
    assert boot_loader(disk).label == "USR-B"
    after = running_from(disk, "USR-B")
    after.confirm(after.booted())
    assert [boot_loader(disk).label for _ in range(3)] == ["USR-B"] * 3
    assert other_slot(after).bootable


def test_a_trial_that_is_given_up_is_over(disk: Path) -> None:
    """After `give_up` the boot loader comes back to the proven slot at once, whatever tries were left."""
    boot = running_from(disk)
    boot.arm(other_slot(boot), 7)
    assert boot_loader(disk).label == "USR-B"
    after = running_from(disk, "USR-B")
    after.give_up(after.booted())
    assert [boot_loader(disk).label for _ in range(2)] == ["USR-A"] * 2
    assert (after.booted().priority, after.booted().tries, after.booted().successful) == (2, 0, False)


@pytest.mark.parametrize("other", [Bits(), Bits(1), Bits(1, tries=3), Bits(0, successful=True)])
def test_a_trial_is_kept_up_while_nothing_else_is_proven(tmp_path: Path, other: Bits) -> None:
    """`give_up` refuses and writes nothing unless the other slot is marked good and may boot."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES, bits={"USR-A": other, "USR-B": Bits(2, tries=2)})
    boot, before = running_from(disk, "USR-B"), disk.read_bytes()
    with pytest.raises(LocalError, match="isn't proven") as caught:
        boot.give_up(boot.booted())
    assert caught.value.code is ErrorCode.BOOT_CONTROL
    assert disk.read_bytes() == before


@pytest.mark.parametrize("label", ["USR-A", "USR-B"])
def test_only_the_running_slots_trial_can_be_given_up(disk: Path, label: str) -> None:
    """`give_up` of a slot that is proven, or that doesn't run, is refused, and nothing is written."""
    boot, before = running_from(disk), disk.read_bytes()
    slot = next(slot for slot in boot.slots() if slot.label == label)
    with pytest.raises(LocalError, match="isn't the one that runs" if label == "USR-B" else "marked good already"):
        boot.give_up(slot)
    assert disk.read_bytes() == before


def test_hash_partitions_are_found_by_their_labels(disk: Path) -> None:
    """`verity_of` gives each slot the place of the partition with its label in `verity_labels`; without labels none."""
    partuuid = partuuid_of(disk.read_bytes(), "USR-A")
    boot = GptPrio(disk, booted_partuuids=(partuuid,), layout=Layout(verity_labels=("ESP", "DATA")))
    places = [boot.verity_of(slot) for slot in boot.slots()]
    after_slots = EDGE + SMALL_PARTITION + 2 * SLOT_BYTES
    assert places == [(disk, EDGE, SMALL_PARTITION), (disk, after_slots, SMALL_PARTITION)]
    assert running_from(disk).verity_of(boot.booted()) is None


def test_a_hash_partition_that_is_not_there_is_named(disk: Path) -> None:
    """A label of `verity_labels` that no partition has is an error that names it and the setting."""
    partuuid = partuuid_of(disk.read_bytes(), "USR-A")
    boot = GptPrio(disk, booted_partuuids=(partuuid,), layout=Layout(verity_labels=("ESP", "NONE")))
    with pytest.raises(LocalError, match="0 partitions labelled NONE") as caught:
        boot.verity_of(boot.booted())
    assert (caught.value.code, "slots.verity_labels" in caught.value.hint) == (ErrorCode.SLOT_NOT_FOUND, True)


def test_notes_say_which_copy_is_damaged(disk: Path) -> None:
    """`notes` names the disk, and the copy of the table that doesn't hold; after a change nothing is damaged."""
    boot = running_from(disk)
    assert [str(disk) in note for note in boot.notes()] == [True, False]
    with disk.open("r+b") as file:
        file.seek(-valid_copies(disk.read_bytes())[0].sector, 2)
        file.write(b"X")  # in the backup header's signature
    assert ["backup copy" in note for note in boot.notes()] == [False, False, True]
    boot.unmark(other_slot(boot))
    boot.arm(other_slot(boot), 1)
    assert len(boot.notes()) == 2


@pytest.mark.parametrize("copy", ["primary", "backup"])
def test_a_confirmed_boot_mends_a_damaged_copy(disk: Path, copy: str) -> None:
    """`confirm` writes a damaged copy of the table anew, also when the slot is marked good already; cgpt agrees."""
    boot, sector = running_from(disk), valid_copies(disk.read_bytes())[0].sector
    boot.confirm(boot.booted())
    whole = disk.read_bytes()
    with disk.open("r+b") as file:
        file.seek(sector if copy == "primary" else len(whole) - sector)
        file.write(bytes(sector))
    assert len(valid_copies(disk.read_bytes())) == 1
    boot.confirm(boot.booted())
    assert disk.read_bytes() == whole


def test_priorities_never_run_out(disk: Path) -> None:
    """After any number of updates both priorities are 1 and 2, so that four bits are enough for ever."""
    labels = ["USR-B", "USR-A"]
    for turn in range(40):
        running = running_from(disk, labels[1 - turn % 2])
        running.unmark(other_slot(running))
        running.arm(other_slot(running), 1)
        assert boot_loader(disk).label == labels[turn % 2]
        after = running_from(disk, labels[turn % 2])
        after.confirm(after.booted())
        assert sorted(slot.priority for slot in after.slots()) == [1, 2]


def test_cgpt_reads_what_was_written(tmp_path: Path) -> None:
    """ChromeOS's tool sees the same bits, both headers valid, after each verb."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES, bits={"USR-A": GOOD})
    boot = running_from(disk)
    boot.arm(other_slot(boot), 3)
    assert (cgpt_bits(disk, 2), cgpt_bits(disk, 3)) == ((1, 0, 1), (2, 3, 0))
    boot.unmark(other_slot(boot))
    assert (cgpt_bits(disk, 2), cgpt_bits(disk, 3)) == ((1, 0, 1), (0, 0, 0))
    assert "INVALID" not in run("cgpt", "show", "-v", disk).upper()


def test_what_cgpt_writes_is_read(tmp_path: Path) -> None:
    """Bits set by ChromeOS's tool are read as it set them."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES)
    run("cgpt", "add", "-i", "2", "-P", "9", "-T", "0", "-S", "1", disk)
    run("cgpt", "add", "-i", "3", "-P", "11", "-T", "6", "-S", "0", disk)
    first, second = running_from(disk).slots()
    assert (first.priority, first.tries, first.successful) == (9, 0, True)
    assert (second.priority, second.tries, second.successful) == (11, 6, False)


def sfdisk_dump(disk: Path) -> list[dict[str, object]]:
    table = json.loads(run("sfdisk", "--json", disk))["partitiontable"]
    return [{**part, "attrs": None} for part in table["partitions"]] + [{key: table[key] for key in ("id", "firstlba")}]


def test_only_boot_bits_change(tmp_path: Path) -> None:
    """The table stays sound and nothing but attributes changes; outside of the two tables not a byte is touched."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES)
    before, dump = disk.read_bytes(), sfdisk_dump(disk)
    boot = running_from(disk)
    boot.arm(other_slot(boot), 1)
    assert "No errors detected" in run("sfdisk", "--verify", disk)
    assert sfdisk_dump(disk) == dump
    after = disk.read_bytes()
    assert after[:512] == before[:512]
    assert after[34 * 512 : -33 * 512] == before[34 * 512 : -33 * 512]


@pytest.mark.parametrize("verb", ["unmark", "arm"])
def test_the_running_slot_is_refused(disk: Path, verb: str) -> None:
    """The running slot is neither un-marked nor armed, and not a byte is written."""
    boot, before = running_from(disk), disk.read_bytes()
    with pytest.raises(RefusedError) as caught:
        boot.unmark(boot.booted()) if verb == "unmark" else boot.arm(boot.booted(), 1)
    assert caught.value.code is ErrorCode.TARGET_IS_RUNNING
    assert disk.read_bytes() == before


@pytest.mark.parametrize("mine", [Bits(2, tries=1), Bits(2), Bits(0, successful=True), Bits()])
@pytest.mark.parametrize("verb", ["unmark", "arm"])
def test_nothing_is_given_up_for_an_unproven_boot(tmp_path: Path, verb: str, mine: Bits) -> None:
    """While the running slot isn't marked good, the other one, perhaps the last good one, is left as it is."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES, bits={"USR-A": mine, "USR-B": GOOD})
    boot, before = running_from(disk), disk.read_bytes()
    with pytest.raises(LocalError, match="isn't marked good") as caught:
        boot.unmark(other_slot(boot)) if verb == "unmark" else boot.arm(other_slot(boot), 1)
    assert caught.value.code is ErrorCode.BOOT_CONTROL
    assert disk.read_bytes() == before


def test_a_running_slot_at_the_top_is_lowered_by_confirm_not_by_arm(tmp_path: Path) -> None:
    """With priority 15 running, arm refuses and writes nothing; confirm makes room, and then arm works."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES, bits={"USR-A": Bits(15, successful=True), "USR-B": Bits(14)})
    boot, before = running_from(disk), disk.read_bytes()
    with pytest.raises(LocalError, match="highest priority") as caught:
        boot.arm(other_slot(boot), 1)
    assert caught.value.code is ErrorCode.BOOT_CONTROL
    assert disk.read_bytes() == before
    boot.confirm(boot.booted())
    boot.arm(other_slot(boot), 1)
    assert (choose(disk).label, boot.booted().priority) == ("USR-B", 2)


def test_a_third_root_partition_counts(tmp_path: Path) -> None:
    """A partition of the root type that is no slot is out-ranked too, and its entry isn't changed."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES, bits={"USR-A": GOOD})
    run("cgpt", "add", "-i", "4", "-t", ROOTFS_TYPE, "-P", "7", "-S", "1", disk)
    boot = running_from(disk)
    boot.arm(other_slot(boot), 1)
    assert (choose(disk).label, cgpt_bits(disk, 4)) == ("USR-B", (7, 0, 1))
    after = running_from(disk, "USR-B")
    after.confirm(after.booted())
    assert (choose(disk).label, cgpt_bits(disk, 4)) == ("USR-B", (7, 0, 1))


def test_confirm_leaves_an_order_that_somebody_made(tmp_path: Path) -> None:
    """A slot that was armed above the running one by another tool stays the next to boot."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES, bits={"USR-A": Bits(1, tries=1), "USR-B": Bits(5, tries=1)})
    boot = running_from(disk)
    boot.confirm(boot.booted())
    assert boot.booted().successful
    assert choose(disk).label == "USR-B"


def test_only_the_running_slot_is_confirmed(disk: Path) -> None:
    """A slot that doesn't run can't be marked good."""
    boot, before = running_from(disk), disk.read_bytes()
    with pytest.raises(LocalError, match="isn't the one that runs"):
        boot.confirm(other_slot(boot))
    assert disk.read_bytes() == before


@pytest.mark.parametrize("top", [1, 15])
def test_a_second_confirmation_writes_nothing(tmp_path: Path, top: int) -> None:
    """Confirming a boot that is confirmed leaves the medium alone, also where no lower priority can be had."""
    path = make_disk(tmp_path / "disk.img", SLOT_BYTES, bits={"USR-A": Bits(top, successful=True)})
    run("cgpt", "add", "-i", "4", "-t", ROOTFS_TYPE, "-P", str(top), "-S", "1", path)
    disk = MemoryDisk(bytearray(path.read_bytes()))
    boot = control(disk, partuuid_of(bytes(disk.data), "USR-A"))
    boot.confirm(boot.booted())
    disk.log.clear()
    boot.confirm(boot.booted())
    assert disk.log == []


@pytest.mark.parametrize("tries", [0, 16, -1])
def test_tries_that_no_boot_loader_counts_are_refused(disk: Path, tries: int) -> None:
    """A slot can't be armed for no try, nor for more than four bits hold."""
    boot = running_from(disk)
    with pytest.raises(ValueError, match="1 to 15"):
        boot.arm(other_slot(boot), tries)


@pytest.mark.parametrize(
    ("booted", "why"),
    [((), "no known partition"), (("00000000-0000-0000-0000-000000000000",), "no slot"), (("A", "B"), "both slots")],
)
def test_a_system_that_runs_from_no_slot_or_both_is_refused(disk: Path, booted: Sequence[str], why: str) -> None:
    """When it isn't known for sure which slot runs, nothing is done."""
    data = disk.read_bytes()
    named = tuple(partuuid_of(data, f"USR-{name}") if name in "AB" else name for name in booted)
    boot = GptPrio(disk, booted_partuuids=named)
    for ask in (boot.booted, lambda: boot.unmark(boot.slots()[1])):
        with pytest.raises(LocalError, match=why) as caught:
            ask()
        assert caught.value.code is ErrorCode.SLOT_NOT_FOUND
    assert disk.read_bytes() == data


def test_a_disk_that_grew_gets_a_backup_at_its_new_end(disk: Path) -> None:
    """On a grown image the backup moves to where boot loaders look for it, before the primary is touched."""
    with disk.open("r+b") as file:
        file.truncate(disk.stat().st_size + 4096 * 64)
    boot = running_from(disk)
    boot.arm(other_slot(boot), 1)
    assert len(valid_copies(disk.read_bytes())) == 2


def test_a_disk_that_shrank_is_refused(tmp_path: Path) -> None:
    """Where the backup's place may belong to a partition, nothing is written."""
    disk = make_disk(tmp_path / "disk.img", SLOT_BYTES)
    with disk.open("r+b") as file:
        file.truncate(disk.stat().st_size - 512 * 8)
    boot, before = running_from(disk), disk.read_bytes()
    with pytest.raises(LocalError, match="backup table") as caught:
        boot.arm(other_slot(boot), 1)
    assert caught.value.code is ErrorCode.GPT_INVALID
    assert disk.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", ErrorCode.GPT_INVALID), (bytes(1 << 20), ErrorCode.GPT_INVALID), (None, ErrorCode.BOOT_CONTROL)],
)
def test_what_is_no_disk_is_refused(tmp_path: Path, content: bytes | None, code: ErrorCode) -> None:
    """An empty file, one without a table, and no file at all each have an error of the agent's own."""
    path = tmp_path / "disk.img"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LocalError) as caught:
        GptPrio(path, booted_partuuids=("x",)).slots()
    assert caught.value.code is code


def test_two_agents_at_once_lose_no_change(disk: Path) -> None:
    """Changes by several at once come one after the other: the table is good in both copies after each."""
    boots = [running_from(disk) for _ in range(4)]

    def work(boot: GptPrio, tries: int) -> None:
        for _ in range(5):
            boot.arm(other_slot(boot), tries)
            boot.unmark(other_slot(boot))

    threads = [threading.Thread(target=work, args=(boot, tries)) for tries, boot in enumerate(boots, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copies = valid_copies(disk.read_bytes())
    assert len(copies) == 2
    assert copies[0].entries == copies[1].entries
    assert choose(disk).label == "USR-A"
