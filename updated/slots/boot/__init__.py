"""Boot loaders' data: which slot boots next, how often it may try, whether it proved itself.

One Protocol, a module for each boot loader. To add one, write a module with a class of these verbs and wire it in main.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from updated.slots.layout import Slot


class BootControl(Protocol):
    """What the agent asks of a boot loader's data.

    Every verb raises LocalError when the data can't be read or written.
    """

    def slots(self) -> tuple[Slot, ...]:
        """Return both slots, A first, as the data have them now."""
        ...

    def booted(self) -> Slot:
        """Return the slot that runs."""
        ...

    def unmark(self, slot: Slot) -> None:
        """Make a slot un-bootable, durably, before anything in it is changed; never the running one."""
        ...

    def arm(self, slot: Slot, tries: int) -> None:
        """Make a slot the next to boot, for `tries` attempts, durably; never the running one."""
        ...

    def confirm(self, slot: Slot) -> None:
        """Mark the running slot as good, durably; a no-op when it is already."""
        ...

    def path_of(self, slot: Slot) -> tuple[Path, int]:
        """Return what to open to write the slot, and the byte offset in there."""
        ...
