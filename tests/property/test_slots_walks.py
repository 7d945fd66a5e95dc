"""Random lives of a host with each boot loader: what boots is always what a rule of four lines says.

The rule: while an armed slot has boots left, it boots, and each costs one. Else the slot boots that was confirmed last.
A confirmation makes the running slot that one; giving a trial up spends the armed slot's boots.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.bootloader import boot as boot_by_bits
from tests.support.campaign import scale
from tests.support.disks import FIRST_BOOT, make_disk
from tests.support.esp import EspHost, make_uki
from tests.support.grub import GrubHost
from tests.support.slots import other_slot, partuuid_of
from updated.slots.boot import BootControl, Contents
from updated.slots.boot.gptprio import GptPrio


class Life(Protocol):
    """A host of one kind."""

    one_try: bool

    def control(self) -> BootControl:
        """What the agent has in the slot that runs."""
        ...

    def stage(self, version: int) -> Contents:
        """Put a release's boot files where the install does, for the slot that doesn't run."""
        ...

    def boot(self) -> str:
        """Let the boot loader pick; return the letter."""
        ...


class BitsLife:
    one_try = False

    def __init__(self, folder: Path) -> None:
        self.disk, self.label = make_disk(folder / "disk.img", 64 * 1024, bits=FIRST_BOOT), "USR-A"

    def control(self) -> BootControl:
        return GptPrio(self.disk, booted_partuuids=(partuuid_of(self.disk.read_bytes(), self.label),))

    def stage(self, version: int) -> Contents:
        return Contents(str(version))

    def boot(self) -> str:
        self.label = boot_by_bits(self.disk).label
        return self.label[-1]


class EntriesLife:
    one_try = False

    def __init__(self, folder: Path, uki: bool, counted_names: bool) -> None:
        self.host, self.uki = EspHost(folder, counted_names=counted_names), uki
        self.host.install_factory("5", uki=uki)

    def control(self) -> BootControl:
        return self.host.control()

    def stage(self, version: int) -> Contents:
        control = self.host.control()
        slot = other_slot(control)
        if self.uki:
            self.host.stage(control, slot, uki=make_uki(str(version), f"root=PARTUUID={slot.partuuid}"))
            return Contents(str(version), frozenset({"uki"}))
        self.host.stage(control, slot, kernel=f"{version}".encode())
        return Contents(str(version), frozenset({"kernel"}))

    def boot(self) -> str:
        return self.host.slot_of(self.host.boot())


class BlockLife:
    one_try = True

    def __init__(self, folder: Path) -> None:
        self.host = GrubHost(folder)
        self.host.factory()

    def control(self) -> BootControl:
        return self.host.control()

    def stage(self, version: int) -> Contents:
        return Contents(str(version))

    def boot(self) -> str:
        return self.host.boot()


class Walk:
    """The rule beside the host."""

    def __init__(self, life: Life) -> None:
        self.life, self.running, self.good = life, "A", "A"
        self.armed: str | None = None
        self.left = 0
        self.judged = True
        self.proven = {"A"}
        self.boot()
        self.confirm()

    def boot(self) -> None:
        trial = self.armed is not None and self.left > 0
        expected = self.armed if trial and self.armed else self.good
        self.left -= 1 if trial else 0
        self.running, self.judged = self.life.boot(), False
        assert self.running == expected

    def confirm(self) -> None:
        control = self.life.control()
        control.confirm(control.booted())
        control.confirm(control.booted())  # it may be cut and repeated
        self.judged = True
        self.proven.add(self.running)
        if self.running == self.armed:
            self.armed, self.left = None, 0
        self.good = self.running
        assert control.booted().successful

    @property
    def free(self) -> bool:
        """Whether the agent would begin anything: this boot is confirmed, and nothing waits for a reboot."""
        return self.judged and self.running == self.good and self.left == 0

    def install(self, version: int, tries: int) -> None:
        if not self.free:
            return
        control = self.life.control()
        slot = other_slot(control)
        control.unmark(slot)
        self.proven.discard(slot.name)
        assert not other_slot(control).bootable
        control.arm(slot, tries, self.life.stage(version))
        self.armed, self.left = slot.name, 1 if self.life.one_try else tries
        shown = other_slot(control)
        assert (shown.bootable, shown.successful, shown.priority > control.booted().priority) == (True, False, True)

    def roll_back(self, tries: int) -> None:
        control = self.life.control()
        slot = other_slot(control)
        if not self.free or slot.name not in self.proven:
            return
        assert slot.successful
        control.arm(slot, tries)
        self.proven.discard(slot.name)
        self.armed, self.left = slot.name, 1 if self.life.one_try else tries

    def reset(self) -> None:
        if not self.judged or self.running != self.good or self.left == 0:
            return
        control = self.life.control()
        control.unmark(other_slot(control))
        self.proven.discard(other_slot(control).name)
        self.armed, self.left = None, 0

    def give_up(self) -> None:
        if self.judged or self.running != self.armed:
            return
        control = self.life.control()
        control.give_up(control.booted())
        self.left = 0
        assert control.booted().tries == 0


ACTIONS = st.lists(
    st.one_of(
        st.just(("boot",)), st.just(("boot",)), st.just(("confirm",)), st.just(("give_up",)), st.just(("reset",)),
        st.tuples(st.just("install"), st.integers(1, 9), st.integers(1, 3)),
        st.tuples(st.just("roll_back"), st.integers(1, 3)),
    ),
    max_size=14,
)  # fmt: skip
KINDS: dict[str, Callable[[Path], Life]] = {
    "gptprio": BitsLife,
    "entries, names with counters": lambda folder: EntriesLife(folder, uki=False, counted_names=True),
    "entries, names without": lambda folder: EntriesLife(folder, uki=False, counted_names=False),
    "images": lambda folder: EntriesLife(folder, uki=True, counted_names=False),
    "GRUB": BlockLife,
}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=scale(20, 400), suppress_health_check=list(HealthCheck))
@example(actions=[("install", 1, 1), ("confirm",)])
@given(actions=ACTIONS)
def test_what_boots_is_what_the_rule_says(kind: str, actions: list[tuple[object, ...]]) -> None:
    """Whatever is installed, confirmed, given up, reset and rolled back in whatever order, the rule says what boots."""
    with tempfile.TemporaryDirectory() as folder:
        walk = Walk(KINDS[kind](Path(folder)))
        for name, *arguments in actions:
            getattr(walk, str(name))(*arguments)
        for _ in range(4):
            walk.boot()
