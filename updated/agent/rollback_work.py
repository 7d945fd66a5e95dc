"""Back to the old slot because a person says so: armed like an update, and like one it has to prove itself again."""

from __future__ import annotations

import asyncio
import dataclasses

from updated.agent import message_ids
from updated.agent.context import Context
from updated.agent.machine import Event
from updated.common.log import get_logger
from updated.confirm.rollback import Pending
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.slots.layout import Slot

log = get_logger("rollback")


class RollbackWork:
    """The effect that makes the other slot the next to boot without writing to it."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def roll_back(self) -> tuple[Event, ...]:
        """Arm the other slot, which booted well before, and remember the running version as one not to take again.

        Without the latter the next check would install it anew. The intent is remembered first, as for an update.

        Raises:
            RefusedError: NOTHING_TO_ROLL_BACK, ROLLBACK_INDEX_TOO_LOW.
            LocalError: STATE or BOOT_CONTROL.
        """
        context = self._context
        facts, booted = context.recall_host()
        other = next(slot for slot in context.means.boot.slots() if slot.partuuid != booted.partuuid)
        version, index = self._known_good(other)
        memory, view = context.memory, context.view
        view.by_hand, view.version_new, view.slot_target, view.refusal = None, version, other.name, None
        memory.last_error = view.last_error = None
        memory.pending = Pending(
            version_from=facts.version,
            version_to=version,
            slot=other.name,
            partuuid=other.partuuid,
            rollback_index=index,
            boot_id=facts.boot_id,
            armed_at=context.now(),
            rollback=True,
        )
        context.means.store.forget_bad_boots()
        context.save()
        tries = context.means.settings.slots.tries
        await context.patiently(asyncio.to_thread(context.means.boot.arm, other, tries))
        memory.pending = dataclasses.replace(memory.pending, armed=True)
        memory.remember_failed(facts.version)
        memory.note(context.now(), "rollback-asked", version, f"slot {other.name}, away from {facts.version}")
        log.info(
            "armed", message_id=message_ids.UPDATE_ARMED, version=version, running=facts.version, slot=other.name,
            how="rollback by hand",
        )  # fmt: skip
        self._save_armed()
        return (Event.ARMED,)

    def _save_armed(self) -> None:
        """Remember that it is armed; what can't be saved is seen in the slot's bits after a restart."""
        try:
            self._context.save()
        except LocalError as error:
            log.warning("not-remembered", code=error.name, message=error.message)
            self._context.refresh()

    def _known_good(self, other: Slot) -> tuple[str, int]:
        """Return version and rollback index of the other slot, if it may be gone back to."""
        if not (other.successful and other.bootable):
            raise RefusedError(
                ErrorCode.NOTHING_TO_ROLL_BACK,
                f"slot {other.name} holds nothing that has booted well",
                hint="Only a release that was confirmed here, and not written over since, can be gone back to.",
            )
        known = self._context.memory.slots.get(other.partuuid)
        if known is None:
            raise RefusedError(
                ErrorCode.NOTHING_TO_ROLL_BACK,
                f"slot {other.name} is marked good, but the agent doesn't remember that it confirmed what is in there",
                hint="Only a release that was confirmed here, and not written over since, can be gone back to.",
            )
        index, floor = known.get("rollback_index"), self._context.means.store.floor()
        if (index or 0) < floor:
            said = "an unknown rollback index" if index is None else f"the rollback index {index}"
            raise RefusedError(
                ErrorCode.ROLLBACK_INDEX_TOO_LOW,
                f"slot {other.name} ({known.get('version', 'of unknown version')}) has {said}, this host needs {floor}",
                hint="Whoever raised the index wants the older releases gone. If you must: write the lower index into"
                " rollback-floor of the state directory first; older releases can then be installed as well.",
            )
        return str(known.get("version", "unknown")), index or 0
