"""Every state that a power cut may leave on the ESP boots a complete slot, by the independent model of systemd-boot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.campaign import scale
from tests.support.esp import EspHost, make_uki
from tests.support.fat import Files, RecordedFat, State, cuts, settled
from tests.support.sdboot import NothingToBootError, menu, next_boot
from tests.support.slots import other_slot
from updated.slots.boot import Contents
from updated.slots.boot.systemd_boot import SystemdBoot


class Scene:
    """A host whose ESP is in memory from now on."""

    def __init__(self, host: EspHost, uki: bool) -> None:
        self.host, self.uki = host, uki
        host.install_factory("5.0", uki=uki)
        host.boot()
        self.fat = RecordedFat.of(host.esp)

    def control(self) -> SystemdBoot:
        return self.host.control(folder=self.fat)

    def stage(self, version: str) -> Contents:
        control = self.control()
        slot = other_slot(control)
        control.unmark(slot)
        for name, path in control.files_of(slot).items():
            place = str(path.relative_to("/esp"))
            if name == "uki" and self.uki:
                self.fat.files[place] = make_uki(version, f"root=PARTUUID={slot.partuuid}")
            elif name != "uki" and not self.uki:
                self.fat.files[place] = f"{name} {version}".encode()
        self.fat.log.clear()
        return Contents(version, frozenset({"uki"} if self.uki else {"kernel", "initrd"}))

    def update(self, version: str) -> None:
        control, contents = self.control(), self.stage(version)
        control.arm(other_slot(control), 2, contents)

    def boot(self) -> None:
        """Let the model pick and count, on the files in memory."""
        item = next_boot(State(self.fat.files))
        if item.left >= 0:
            after = f"{item.stem}+{max(item.left - 1, 0)}-{item.done + 1}{item.end}"
            self.fat.files[f"{item.folder}/{after}"] = self.fat.files.pop(f"{item.folder}/{item.file}")
        self.host.running = self.host.slot_of(item)
        self.host.facts = dataclasses.replace(self.host.facts, selected=(item.stem + item.end).lower())

    def next_slots(self, files: Files) -> set[str]:
        """Return the slot that boots, by both kinds of systemd-boot; whatever it loads has to be there."""
        found = set()
        for counted_names in (False, True):
            item = next_boot(State(files), counted_names=counted_names)
            assert all(State(files).content(path) for path in item.loads), "it would load what isn't there"
            found.add(self.host.slot_of(item))
        return found

    def bootable(self, files: Files) -> set[str]:
        return {self.host.slot_of(item) for item in menu(State(files))}


def arm(scene: Scene, version: str) -> Files:
    contents = scene.stage(version)
    before, control = dict(scene.fat.files), scene.control()
    control.arm(other_slot(control), 2, contents)
    return before


def arm_newer(scene: Scene) -> Files:
    return arm(scene, "6.0")


def arm_older(scene: Scene) -> Files:
    return arm(scene, "4.0")


def unmark(scene: Scene) -> Files:
    scene.update("6.0")
    scene.boot()
    control = scene.control()
    control.confirm(control.booted())
    before = dict(scene.fat.files)
    scene.fat.log.clear()
    control.unmark(other_slot(control))
    return before


def unmark_armed_older(scene: Scene) -> Files:
    scene.update("4.0")
    before, control = dict(scene.fat.files), scene.control()
    scene.fat.log.clear()
    control.unmark(other_slot(control))
    return before


def confirm(scene: Scene) -> Files:
    scene.update("6.0")
    scene.boot()
    before, control = dict(scene.fat.files), scene.control()
    scene.fat.log.clear()
    control.confirm(control.booted())
    return before


def confirm_alone(scene: Scene) -> Files:
    """The first boot of a factory image whose entry has a counter, and nothing in the other slot."""
    place, end = ("EFI/Linux", "efi") if scene.uki else ("loader/entries", "conf")
    scene.fat.files[f"{place}/slot-a+2-1.{end}"] = scene.fat.files.pop(f"{place}/slot-a.{end}")
    before, control = dict(scene.fat.files), scene.control()
    scene.fat.log.clear()
    control.confirm(control.booted())
    assert f"{place}/slot-a.{end}" in scene.fat.files
    return before


def give_up(scene: Scene) -> Files:
    scene.update("6.0")
    scene.boot()
    before, control = dict(scene.fat.files), scene.control()
    scene.fat.log.clear()
    control.give_up(control.booted())
    return before


def roll_back(scene: Scene) -> Files:
    scene.update("6.0")
    scene.boot()
    control = scene.control()
    control.confirm(control.booted())
    before = dict(scene.fat.files)
    scene.fat.log.clear()
    control.arm(other_slot(control), 2)
    return before


VERBS: list[Callable[[Scene], Files]] = [
    arm_newer, arm_older, unmark, unmark_armed_older, confirm, confirm_alone, give_up, roll_back,
]  # fmt: skip


@pytest.mark.parametrize("uki", [False, True], ids=["files", "image"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_cut_boots_a_complete_slot(tmp_path: Path, verb: Callable[[Scene], Files], uki: bool) -> None:
    """After a cut anywhere in a verb a slot boots that loads only what is there, and the running one still can.

    The one exception: while the image of a slot on trial loses its counter, its name may be lost. Then the other slot
    boots, which is proven.
    """
    scene = Scene(EspHost(tmp_path), uki)
    before = verb(scene)
    states = list(cuts(before, scene.fat.log))
    assert len(states) >= 2
    for state in states:
        assert scene.next_slots(state) <= {"A", "B"}
        lost = scene.host.running not in scene.bootable(state)
        assert not lost or (uki and verb in (confirm, give_up) and scene.bootable(state) == {"A"})


@pytest.mark.parametrize("uki", [False, True], ids=["files", "image"])
def test_an_unmarked_slot_boots_after_no_cut(tmp_path: Path, uki: bool) -> None:
    """Once `unmark` has returned, no state that a later cut may leave lets the slot boot."""
    scene = Scene(EspHost(tmp_path), uki)
    before = unmark(scene)
    settled = list(cuts(before, scene.fat.log))[-1]
    assert scene.fat.log[-1][0] == "flush"
    assert scene.bootable(settled) == scene.bootable(scene.fat.files) == {scene.host.running}


@pytest.mark.parametrize("version", ["6.0", "4.0"])
@pytest.mark.parametrize("uki", [False, True], ids=["files", "image"])
def test_from_every_cut_of_arming_the_running_slot_comes_back(tmp_path: Path, uki: bool, version: str) -> None:
    """Whatever an arming left, boots that nobody confirms end in the running slot, and stay there."""
    scene = Scene(EspHost(tmp_path), uki)
    before = arm(scene, version)
    for state in list(cuts(before, scene.fat.log)):
        scene.fat.files = dict(state)
        order = []
        for _ in range(5):
            scene.boot()
            order.append(scene.host.running)
        assert order[-2:] == ["A", "A"], (order, sorted(state))


def test_the_recorder_loses_what_was_not_flushed() -> None:
    """The model of the file system leaves all four outcomes of a renaming, and only one once it is flushed."""
    fat = RecordedFat({"d/a": b"1"})
    fat.rename("d/a", "d/b")
    before = {"d/a": b"1"}
    assert {tuple(sorted(state)) for state in cuts(before, fat.log)} == {("d/a",), (), ("d/b",), ("d/a", "d/b")}
    assert {state["d/b"] for state in cuts(before, fat.log) if "d/b" in state} == {b"1", b""}
    fat.flush("d")
    assert settled(before, fat.log) == ({"d/b": b"1"}, [])
    with pytest.raises(NothingToBootError):
        next_boot(State({}))


def test_every_bit_of_an_armed_entry(tmp_path: Path) -> None:
    """With a bit of the armed slot's entry flipped, boots that nobody confirms still end in the old slot.

    Every 11th bit, or all of them in a campaign.
    """
    scene = Scene(EspHost(tmp_path), uki=False)
    scene.update("6.0")
    path = "loader/entries/slot-b+2.conf"
    whole = dict(scene.fat.files)
    for bit in range(0, len(whole[path]) * 8, scale(11, 1)):
        damaged = bytearray(whole[path])
        damaged[bit // 8] ^= 1 << bit % 8
        scene.fat.files = {**whole, path: bytes(damaged)}
        stems = []
        for _ in range(4):
            item = next_boot(State(scene.fat.files))
            stems.append(item.stem)
            scene.boot()
        assert stems[-1] == "slot-a", (bit, stems)
