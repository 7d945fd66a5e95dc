"""What the agent would say of this host, from its files and the boot loader's data: for when it doesn't run.

Nothing is written, and a damaged state file isn't set aside: that is the agent's to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from updated.agent.host import read_facts
from updated.agent.machine import State
from updated.agent.memory import Memory, Store
from updated.agent.status import View, error_dict, slot_documents
from updated.config import Settings
from updated.confirm.rollback import Boot, classify_boot
from updated.errors import LocalError, UpdateError
from updated.slots.layout import Slot
from updated.wiring import boot_control, host_paths


@dataclass(slots=True)
class Offline:
    """What could be found out, and the errors of what couldn't."""

    view: View = field(default_factory=View)
    memory: Memory = field(default_factory=Memory)
    slots: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    problems: list[UpdateError] = field(default_factory=list)


def look(settings: Settings, at: str) -> Offline:
    """Read facts, state and slots as far as this user may.

    Args:
        settings: those that the agent would run with.
        at: now, RFC 3339.
    """
    found = Offline()
    try:
        found.memory = Store(settings.state_dir).peek()
    except LocalError as error:
        found.problems.append(error)
    try:
        facts = read_facts(settings.host)
        found.view.version_booted, found.view.boot_id = facts.version, facts.boot_id
    except LocalError as error:
        found.problems.append(error)
    try:
        boot = boot_control(settings.slots, host_paths(settings.host))
        slots, booted = boot.slots(), boot.booted()
        found.slots, found.notes = slot_documents(slots, booted), boot.notes()
        found.view.slot_booted = booted.name
        _show_pending(found, booted)
    except UpdateError as error:
        found.problems.append(error)
    _show_memory(found, at)
    return found


def _show_pending(found: Offline, booted: Slot) -> None:
    pending, view = found.memory.pending, found.view
    boot = classify_boot(pending, view.boot_id, booted.partuuid, tries_spent=False)
    if boot is Boot.SAME and pending is not None:
        view.state, view.version_new, view.slot_target = State.NEED_REBOOT, pending.version_to, pending.slot
        view.by_hand = pending.by_hand


def _show_memory(found: Offline, at: str) -> None:
    view, memory = found.view, found.memory
    view.last_check, view.rolled_back = memory.last_check, memory.rolled_back
    view.failed_versions = list(memory.failed_versions)
    view.boot_confirmed = bool(view.boot_id) and view.boot_id == memory.confirmed_boot_id
    view.last_error = error_dict(found.problems[0], at) if found.problems else memory.last_error
