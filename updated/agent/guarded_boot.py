"""A boot loader's data whose changes a shutdown waits for: the same verbs, each change under a delay lock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from updated.common.inhibit import Inhibitor
from updated.slots.boot import BootControl, Contents
from updated.slots.layout import Slot


class GuardedBoot:
    """BootControl, for threads without an event loop; reading takes no lock.

    Each back end bears a cut at any moment. The lock makes a shutdown that somebody asks for just then end with the
    change done and remembered, instead of one that the next boot has to make sense of.
    """

    def __init__(self, inner: BootControl, inhibitor: Inhibitor) -> None:
        self._inner, self._inhibitor = inner, inhibitor

    def slots(self) -> tuple[Slot, ...]:
        """Return both slots; see BootControl, as for all that follow."""
        return self._inner.slots()

    def booted(self) -> Slot:
        """Return the slot that runs."""
        return self._inner.booted()

    def unmark(self, slot: Slot) -> None:
        """Make a slot un-bootable."""
        with self._inhibitor.held(f"slot {slot.name} is made un-bootable"):
            self._inner.unmark(slot)

    def arm(self, slot: Slot, tries: int, contents: Contents | None = None) -> None:
        """Make a slot the next to boot."""
        with self._inhibitor.held(f"slot {slot.name} is made the next to boot"):
            self._inner.arm(slot, tries, contents)

    def confirm(self, slot: Slot) -> None:
        """Mark the running slot as good."""
        with self._inhibitor.held(f"slot {slot.name} is marked as good"):
            self._inner.confirm(slot)

    def give_up(self, slot: Slot) -> None:
        """End the running slot's trial."""
        with self._inhibitor.held(f"the trial of slot {slot.name} is ended"):
            self._inner.give_up(slot)

    def path_of(self, slot: Slot) -> tuple[Path, int]:
        """Return what to open to write the slot."""
        return self._inner.path_of(slot)

    def verity_of(self, slot: Slot) -> tuple[Path, int, int] | None:
        """Return what to open to write the slot's hash partition."""
        return self._inner.verity_of(slot)

    def files_of(self, slot: Slot) -> Mapping[str, Path]:
        """Return where a payload's files for the slot are put."""
        return self._inner.files_of(slot)

    def stale_of(self, slot: Slot) -> tuple[Path, ...]:
        """Return the files that un-marking the slot removes."""
        return self._inner.stale_of(slot)

    def notes(self) -> tuple[str, ...]:
        """Return how the slots were found and what is wrong."""
        return self._inner.notes()
