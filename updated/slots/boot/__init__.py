"""Boot loaders' data: which slot boots next, how often it may try, whether it proved itself.

One Protocol, a module for each boot loader; docs/boot-loaders.md says what a further one takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from updated.slots.layout import Slot


@dataclass(frozen=True, slots=True)
class Contents:
    """What an install put into a slot, for boot loaders whose entries name files, options and the root hash.

    Args:
        version: of the release.
        files: which of the places of `files_of` were written: `kernel`, `initrd`, `uki`.
        root_hash: of the slot's verity tree, lower-case hex; None when it has none.
    """

    version: str
    files: frozenset[str] = frozenset()
    root_hash: str | None = None


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
        """Make a slot un-bootable, durably, before anything in it is changed; never the running one.

        Where boot files need room, the stale ones of the slot are removed after it can't boot any more.
        """
        ...

    def arm(self, slot: Slot, tries: int, contents: Contents | None = None) -> None:
        """Make a slot the next to boot, for `tries` attempts, durably; never the running one.

        `contents` is what was put there; None when nothing was, so that only the switch is asked for.
        """
        ...

    def confirm(self, slot: Slot) -> None:
        """Mark the running slot as good, durably; a no-op when it is already."""
        ...

    def give_up(self, slot: Slot) -> None:
        """End the running slot's trial, durably: its tries are spent, so that the next boot is the other slot's.

        Refused, with nothing changed, unless the other slot is proven and can boot.
        """
        ...

    def path_of(self, slot: Slot) -> tuple[Path, int]:
        """Return what to open to write the slot, and the byte offset in there."""
        ...

    def verity_of(self, slot: Slot) -> tuple[Path, int, int] | None:
        """Return what to open to write the slot's verity hash partition, the byte offset in there, and its bytes.

        None when the slots of this host have none.
        """
        ...

    def files_of(self, slot: Slot) -> Mapping[str, Path]:
        """Return where a payload's `kernel`, `initrd` and `uki` for the slot are put.

        A name that is missing has no place here: a payload that has such a file is refused.
        No boot loader takes what lies there for an entry: `arm` makes the switch, last.
        """
        ...

    def stale_of(self, slot: Slot) -> tuple[Path, ...]:
        """Return the files that `unmark` removes with a slot, for whoever counts the room for new ones."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Return how the slots were found and what is wrong with the boot loader's data, in sentences."""
        ...
