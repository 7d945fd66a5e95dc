"""What the agent's work shares: the means it is done with, the view that status shows, the memory that survives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from updated.agent.host import HostFacts, read_facts
from updated.agent.memory import Memory, Store
from updated.agent.status import View, error_dict
from updated.common.clock import Clock, rfc3339
from updated.common.log import get_logger
from updated.common.process import ALIVE_SECS
from updated.config import Settings
from updated.errors import LocalError, UpdateError
from updated.slots.boot import BootControl
from updated.slots.layout import HostPaths, Slot

T = TypeVar("T")
PATIENCE_SECS = 600.0  # for one write to the boot loader's data or the state directory, and its flush
log = get_logger("agent")


@dataclass(frozen=True, slots=True)
class Means:
    """What the work is done with; main wires the real ones."""

    settings: Settings
    clock: Clock
    boot: BootControl
    host: HostPaths
    store: Store
    fraction: Callable[[], float]  # random, in [0, 1)
    reboot: Callable[[Callable[[], None]], Awaitable[None]]  # handed what it calls while it goes on


class Context:
    """The agent's knowledge of itself; the rooms of work change it, status shows it."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self.view = View()
        self.memory = Memory()
        self.trial = False  # this boot is the first one of an armed slot
        self.fall_backs = 0  # how often a reboot was asked for in this boot
        self.pulse = 0  # rises whenever work makes progress; the watchdog looks at it
        self.on_progress: Callable[[], None] = lambda: None
        self._facts: HostFacts | None = None
        self._booted: Slot | None = None

    def recall_host(self) -> tuple[HostFacts, Slot]:
        """Read facts and slots afresh.

        Raises:
            LocalError: STATE, GPT_INVALID or SLOT_NOT_FOUND.
        """
        self._facts = read_facts(self.means.settings.host)
        self._booted = self.means.boot.booted()
        self.view.version_booted = self._facts.version
        self.view.boot_id = self._facts.boot_id
        self.view.slot_booted = self._booted.name
        return self._facts, self._booted

    def known(self) -> tuple[HostFacts, Slot]:
        """Return the facts and the booted slot as last read."""
        if self._facts is None or self._booted is None:
            return self.recall_host()
        return self._facts, self._booted

    def other_slot(self) -> Slot:
        """Return the slot that doesn't run, as the boot loader's data have it now.

        Raises:
            LocalError: as `recall_host`.
        """
        _, booted = self.known()
        return next(slot for slot in self.means.boot.slots() if slot.partuuid != booted.partuuid)

    def now(self) -> str:
        """Return the wall clock as RFC 3339."""
        return rfc3339(self.means.clock.now())

    def beat(self) -> None:
        """Work goes on: the watchdog is fed at its next look. To be called from the event loop's thread."""
        self.pulse += 1

    async def patiently(self, work: Awaitable[T]) -> T:
        """Wait for work that can't show that it goes on (a flush, a table's write), and feed the watchdog meanwhile.

        That ends after PATIENCE_SECS: a medium that is silent for longer hangs, and the watchdog may act.
        """
        waiting = asyncio.ensure_future(work)
        for _ in range(int(PATIENCE_SECS / ALIVE_SECS)):
            self.beat()
            done, _ = await asyncio.wait([waiting], timeout=ALIVE_SECS)
            if done:
                break
        return await waiting

    def save(self) -> None:
        """Write the memory durably and show what changed in it.

        Raises:
            LocalError: STATE.
        """
        self.means.store.save(self.memory)
        self.refresh()

    def save_or_note(self) -> None:
        """Write the memory, or note why not: a full disk doesn't keep a boot from its verdict."""
        try:
            self.save()
        except LocalError as error:
            log.warning("not-remembered", code=error.name, message=error.message)
            self.note_error(error)

    def refresh(self) -> None:
        """Copy into the view what it shows of the memory."""
        self.view.last_check = self.memory.last_check
        self.view.last_error = self.memory.last_error
        self.view.rolled_back = self.memory.rolled_back
        self.view.failed_versions = list(self.memory.failed_versions)

    def show_backoff(self) -> None:
        """Show that the payload which failed last is left alone, if it still is."""
        known = self.memory.backoff
        self.view.backoff = known if known and known.until(self.means.clock.now()) else None

    def note_error(self, error: UpdateError) -> None:
        """Show and remember an error; a state directory that can't be written doesn't hide it."""
        noted: dict[str, Any] = error_dict(error, self.now())
        if self.view.by_hand:
            noted["by_hand"] = self.view.by_hand
        self.memory.last_error = noted
        try:
            self.save()
        except LocalError:
            self.refresh()  # the view still shows it; the next save says that the directory is at fault
