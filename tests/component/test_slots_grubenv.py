"""GRUB's environment block: the agent changes it, the real GRUB runs the shipped script on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.disks import ENV
from tests.support.grub import RAUC, SCRIPT, GrubHost, edit
from tests.support.slots import other_slot
from updated.errors import ErrorCode, LocalError, RefusedError


@pytest.fixture
def host(tmp_path: Path) -> GrubHost:
    """A host that booted slot A by GRUB, and confirmed it."""
    host = GrubHost(tmp_path)
    host.factory()
    assert host.boot() == "A"
    host.confirm()
    return host


def update(host: GrubHost) -> None:
    control = host.control()
    control.unmark(other_slot(control))
    assert host.variables()[f"{other_slot(control).name}_OK"] == "0"
    control.arm(other_slot(control), 3)


@pytest.mark.parametrize("name", ["slots.cfg", "grub.cfg"])
def test_the_shipped_scripts_are_grubs(name: str) -> None:
    """GRUB's own checker finds no mistake in the scripts that images take over."""
    subprocess.run(["grub-script-check", SCRIPT.with_name(name)], env=ENV, check=True)


def test_an_update_is_tried_confirmed_and_stays(host: GrubHost) -> None:
    """The armed slot boots next, once; confirmed, it boots ever after, and the old one stays to fall back to."""
    update(host)
    assert host.boot() == "B"
    assert host.variables() == {"ORDER": "B A", "A_OK": "1", "A_TRY": "0", "B_OK": "1", "B_TRY": "1"}
    assert [slot.successful for slot in host.control().slots()] == [True, False]
    host.confirm()
    assert host.boot() == "B"
    assert [slot.successful for slot in host.confirm().slots()] == [True, True]
    assert host.boot() == "B"


def test_a_slot_that_never_speaks_is_given_up(host: GrubHost) -> None:
    """A boot that nobody confirms leads back to the old slot, which stays, confirmed or cut again and again."""
    update(host)
    assert [host.boot() for _ in range(5)] == ["B", "A", "A", "A", "A"]
    slots = host.control().slots()
    assert (slots[1].priority > 0, slots[1].tries, slots[1].successful) == (True, 0, False)
    host.confirm()
    assert host.variables()["ORDER"] == "A B"
    update(host)
    assert host.boot() == "B"


def test_an_unmarked_slot_never_boots(host: GrubHost) -> None:
    """From un-marking on, only the running slot boots, however many boots are cut before they are confirmed."""
    control = host.control()
    control.unmark(other_slot(control))
    assert [host.boot() for _ in range(4)] == ["A"] * 4


def test_a_trial_that_is_given_up_is_over(host: GrubHost) -> None:
    """After `give_up` GRUB comes back to the proven slot, and stays there."""
    update(host)
    host.boot()
    control = host.control()
    control.give_up(control.booted())
    assert [host.boot() for _ in range(3)] == ["A"] * 3


def test_a_trial_is_not_given_up_without_a_way_back(host: GrubHost) -> None:
    """`give_up` writes nothing while the other slot isn't proven."""
    before = host.block.read_bytes()
    control = host.control()
    with pytest.raises(LocalError, match="isn't proven") as caught:
        control.give_up(control.booted())
    assert caught.value.code is ErrorCode.BOOT_CONTROL
    assert host.block.read_bytes() == before


def test_going_back_by_hand(host: GrubHost) -> None:
    """The old slot, still proven, is armed, boots once, and is led back from unless it is confirmed."""
    update(host)
    host.boot()
    control = host.confirm()
    assert other_slot(control).successful
    control.arm(other_slot(control), 1)
    armed = other_slot(control)
    assert (armed.successful, armed.tries, armed.priority > control.booted().priority) == (False, 1, True)
    assert [host.boot() for _ in range(3)] == ["A", "B", "B"]


@pytest.mark.parametrize("verb", ["unmark", "arm"])
def test_no_update_before_this_boot_is_confirmed(host: GrubHost, verb: str) -> None:
    """Every boot is a trial to GRUB: until it is confirmed, the other slot isn't touched."""
    host.boot()
    before, control = host.block.read_bytes(), host.control()
    with pytest.raises(LocalError, match="isn't marked good") as caught:
        control.unmark(other_slot(control)) if verb == "unmark" else control.arm(other_slot(control), 1)
    assert caught.value.code is ErrorCode.BOOT_CONTROL
    assert host.block.read_bytes() == before


@pytest.mark.parametrize("verb", ["unmark", "arm"])
def test_the_running_slot_is_refused(host: GrubHost, verb: str) -> None:
    """The running slot is neither un-marked nor armed."""
    before, control = host.block.read_bytes(), host.control()
    with pytest.raises(RefusedError) as caught:
        control.unmark(control.booted()) if verb == "unmark" else control.arm(control.booted(), 1)
    assert caught.value.code is ErrorCode.TARGET_IS_RUNNING
    assert host.block.read_bytes() == before


def test_the_file_stays_where_it_is(host: GrubHost) -> None:
    """Changes are written in place, and into the first sector only."""
    edit(host.block, "set", "saved_entry=" + "x" * 600)
    update(host)
    inode, second = host.block.stat().st_ino, host.block.read_bytes()[512:]
    control = host.control()
    for change in (
        lambda: control.unmark(other_slot(control)),
        lambda: control.arm(other_slot(control), 1),
        lambda: control.confirm(control.booted()),
    ):
        change()
        assert (host.block.stat().st_ino, host.block.read_bytes()[512:]) == (inode, second)
    assert host.variables()["saved_entry"] == "x" * 600


def test_other_variables_stay(host: GrubHost) -> None:
    """What else is in the block, a rescue system in ORDER among it, comes back as it was, backslashes and all."""
    edit(host.block, "set", "next_entry=a\\b", "ORDER=A B R", "kernelopts=root=x quiet")
    update(host)
    found = host.variables()
    assert (found["next_entry"], found["kernelopts"], found["ORDER"]) == ("a\\b", "root=x quiet", "B A R")


def test_a_block_that_is_full_is_told(host: GrubHost) -> None:
    """Without room for our variables nothing is written, and the error names the block."""
    edit(host.block, "unset", "ORDER", "B_OK", "B_TRY")
    edit(host.block, "set", "x=" + "y" * 890)
    before, control = host.block.read_bytes(), host.control()
    with pytest.raises(LocalError, match="don't fit into 1024") as caught:
        control.confirm(control.booted())
    assert caught.value.code is ErrorCode.BOOT_FILES
    assert host.block.read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"x" * 1024, b"# GRUB Environment Block\n", None])
def test_a_damaged_block_is_told_and_mended(host: GrubHost, damage: bytes | None) -> None:
    """With no usable block GRUB boots the slot proven last; it is told, and the confirmed boot mends it."""
    update(host)
    host.boot()
    host.confirm()
    if damage is None:
        host.block.unlink()
    else:
        host.block.write_bytes(damage)
    assert any("can't be used" in note for note in host.control().notes())
    if damage is not None:
        assert host.boot() == "B"
    host.confirm()
    assert host.variables() == {"ORDER": "B A", "A_OK": "0", "A_TRY": "1", "B_OK": "1", "B_TRY": "0"}
    assert not any("can't be used" in note for note in host.control().notes())
    assert host.boot() == "B"


def test_a_rauc_host_moves_over_with_its_own_script(tmp_path: Path) -> None:
    """With RAUC's rule in GRUB and a block that RAUC filled, update, fall-back and confirmation work as they are."""
    host = GrubHost(tmp_path, script=RAUC)
    edit(host.block, "set", "ORDER=B A", "A_TRY=0", "A_OK=1", "B_OK=1", "B_TRY=0")
    assert host.boot() == "B"
    host.confirm()
    control = host.control()
    control.unmark(other_slot(control))
    control.arm(other_slot(control), 3)
    assert [host.boot() for _ in range(2)] == ["A", "B"]
    host.confirm()
    control = host.control()
    control.unmark(other_slot(control))
    control.arm(other_slot(control), 3)
    assert host.boot() == "A"
    host.confirm()
    assert [host.boot(), host.confirm().booted().name] == ["A", "A"]


def test_notes_name_block_and_variables(host: GrubHost) -> None:
    """`notes` names the block and what its variables are, and a block that GRUB can't write into."""
    assert "ORDER=A B, A_OK=1, A_TRY=0" in " ".join(host.control().notes())
    with host.block.open("r+b") as file:
        file.truncate(0)
        file.truncate(1024)
    assert any("no blocks of its own" in note for note in host.control().notes())
