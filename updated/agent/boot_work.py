"""The work around a boot: what kind of boot is this, is it healthy, confirm it or fall back."""

from __future__ import annotations

import asyncio
import dataclasses

from updated.agent import message_ids, talk
from updated.agent.context import Context
from updated.agent.host import HostFacts
from updated.agent.machine import Event
from updated.agent.status import error_dict
from updated.common.log import get_logger
from updated.confirm.health import judge
from updated.confirm.rollback import Boot, Pending, classify_boot, may_fall_back, raised_floor
from updated.errors import ErrorCode, LocalError, UpdateError
from updated.slots.layout import Slot

log = get_logger("agent")


class BootWork:
    """Effects before the first poll."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def recall(self) -> Event:
        """Find out what kind of boot this is and what was going on; settle what a rollback means.

        Raises:
            LocalError: facts, slots or the state can't be read.
        """
        context = self._context
        context.memory, damage = context.means.store.load()
        if damage:
            log.error("state-damaged", detail=damage)
        facts, booted = context.recall_host()
        pending = context.memory.pending
        other = context.other_slot()
        spent = other.priority > 0 and other.tries == 0 and not other.successful
        boot = classify_boot(pending, facts.boot_id, booted.partuuid, tries_spent=spent)
        if boot is Boot.INTERRUPTED and pending is not None and pending.rollback:
            boot, pending = self._settle_rollback(pending, other, booted)
        elif boot in (Boot.ROLLED_BACK, Boot.INTERRUPTED):
            self._unmark(other)
        if boot is Boot.ROLLED_BACK and pending is not None:
            self._note_rollback(pending, facts)
        if boot is Boot.INTERRUPTED:
            context.memory.pending = None
        context.trial = boot is Boot.TRIAL
        context.show_backoff()
        context.memory.aleph_version = context.memory.aleph_version or facts.version
        context.save_or_note()
        if boot is Boot.SAME and pending is not None:
            self._show_armed(pending)
            return Event.SLOT_ARMED
        return self._how_judged(facts, booted)

    def _show_armed(self, pending: Pending) -> None:
        view = self._context.view
        view.version_new, view.slot_target, view.by_hand = pending.version_to, pending.slot, pending.by_hand
        view.boot_confirmed = True  # an update is only taken in a confirmed boot

    def _how_judged(self, facts: HostFacts, booted: Slot) -> Event:
        """Tell whether an earlier run of the agent has judged this boot, and how."""
        context = self._context
        context.view.boot_confirmed = context.memory.confirmed_boot_id == facts.boot_id
        if context.view.boot_confirmed:
            return Event.BOOT_JUDGED
        if facts.boot_id in context.means.store.bad_boots(booted.partuuid) and self._can_fall_back():
            return self._after_bad_trial()
        return Event.BOOT_UNJUDGED

    def _can_fall_back(self) -> bool:
        """Tell from the boot loader's data, as they are now, whether a reboot can end in the other slot."""
        booted, other = self._context.means.boot.booted(), self._context.other_slot()
        return may_fall_back(
            trial=self._context.trial,
            booted_successful=booted.successful,
            other_bootable=other.bootable,
            other_successful=other.successful,
        )

    def _after_bad_trial(self) -> Event:
        """Tell whether the slot has been bad in as many boots as one verdict more costs."""
        _, booted = self._context.known()
        bad = len(self._context.means.store.bad_boots(booted.partuuid))
        # what couldn't be written down counts as well: a full disk must not turn into boot after boot
        return Event.UNHEALTHY_TRIAL if 0 < bad < self._context.means.settings.health.trial_boots else Event.LOST_TRIAL

    def _settle_rollback(self, pending: Pending, other: Slot, booted: Slot) -> tuple[Boot, Pending]:
        """Tell from the slot's bits whether a rollback was armed before the agent was cut off; the slot stays so."""
        if other.bootable and not other.successful and other.priority > booted.priority:
            self._context.memory.pending = dataclasses.replace(pending, armed=True)
            return Boot.SAME, self._context.memory.pending
        return Boot.INTERRUPTED, pending

    def _unmark(self, other: Slot) -> None:
        """Un-mark a bad slot or half an arming, unless this boot is unproven: then it may be all there is."""
        try:
            self._context.means.boot.unmark(other)
        except UpdateError as error:
            log.warning("slot-left-as-it-is", slot=other.name, code=error.name, message=error.message)

    def _note_rollback(self, pending: Pending, facts: HostFacts) -> None:
        memory, now = self._context.memory, self._context.now()
        log.error("rolled-back", message_id=message_ids.ROLLED_BACK, version=pending.version_to, running=facts.version)
        memory.remember_failed(pending.version_to)
        memory.rolled_back = {"version": pending.version_to, "at": now, "boot_id": facts.boot_id}
        memory.queue_event(talk.error_event(ErrorCode.ROLLED_BACK))
        memory.note(now, "rolled-back", pending.version_to, f"the boot loader came back to {facts.version}")
        why = f" ({memory.last_error['message']})" if memory.last_error else ""
        error = LocalError(
            ErrorCode.ROLLED_BACK,
            f"version {pending.version_to} was tried and the boot loader came back to {facts.version}{why}",
            hint=f"Offer a better release; `update-ctl reset` lets {pending.version_to} be tried again.",
        )
        memory.last_error = error_dict(error, now)
        memory.pending = None

    async def judge_health(self) -> tuple[Event, ...]:
        """Run the health gate; mark the slot good, or ask for the fall-back of a trial boot.

        Raises:
            LocalError: HEALTH_FAILED on a boot that has nothing to fall back to, BOOT_CONTROL when marking failed.
        """
        context = self._context
        verdict = await judge(context.means.settings.health, context.means.clock, context.beat)
        if verdict.healthy:
            await self._confirm()
            return (Event.HEALTHY,)
        falls_back = await context.patiently(asyncio.to_thread(self._can_fall_back))
        log.error(
            "unhealthy",
            message_id=message_ids.BOOT_UNHEALTHY,
            version=context.view.version_booted,
            falls_back=falls_back,
            reason=verdict.reason,
        )
        error = LocalError(
            ErrorCode.HEALTH_FAILED,
            f"this boot is not healthy: {verdict.reason}",
            hint="Repair what the check names; see `systemctl --failed` and the journal of this boot.",
        )
        if not falls_back:
            raise error
        context.memory.note(context.now(), "unhealthy", context.view.version_booted, verdict.reason)
        context.note_error(error)
        await context.patiently(asyncio.to_thread(self._note_bad_boot))
        return (self._after_bad_trial(),)

    def _note_bad_boot(self) -> None:
        facts, booted = self._context.known()
        try:
            self._context.means.store.note_bad_boot(booted.partuuid, facts.boot_id)
        except LocalError as error:
            log.warning("not-remembered", code=error.name, message=error.message)

    async def give_up(self) -> tuple[Event, ...]:
        """Spend the tries that the boot loader has left for this slot, so that the next boot is the other slot's.

        Where that fails and the boot loader has the slot on trial still, the reboot uses up one of its tries at least.

        Raises:
            LocalError: BOOT_CONTROL; it failed, and the boot loader would boot this slot again and again.
        """
        context = self._context
        _, booted = context.known()
        log.warning("giving-up", version=context.view.version_booted, slot=booted.name)
        try:
            await context.patiently(asyncio.to_thread(context.means.boot.give_up, booted))
        except LocalError as error:
            if (await context.patiently(asyncio.to_thread(context.means.boot.booted))).successful:
                raise
            log.warning("tries-not-spent", code=error.name, message=error.message)
        return (Event.GIVEN_UP,)

    async def _confirm(self) -> None:
        """Mark the booted slot good, raise the floor, remember both; every step may be repeated after a cut."""
        context = self._context
        facts, booted = context.known()
        await context.patiently(asyncio.to_thread(context.means.boot.confirm, booted))
        pending = context.memory.pending if context.trial else None
        if pending is not None:
            await context.patiently(asyncio.to_thread(self._settle_trial, pending, facts, booted.name))
        context.memory.confirmed_boot_id = facts.boot_id
        self._remember_slot(facts.version, booted, pending)
        context.save()
        context.trial = False
        context.view.boot_confirmed = True

    def _remember_slot(self, version: str, booted: Slot, pending: Pending | None) -> None:
        """Remember what booted well from where, for a rollback; the index only when the agent installed it."""
        known = self._context.memory.slots
        if pending is not None:
            known[booted.partuuid] = {"version": version, "rollback_index": pending.rollback_index}
        elif known.get(booted.partuuid, {}).get("version") != version:
            known[booted.partuuid] = {"version": version, "rollback_index": None}

    def _settle_trial(self, pending: Pending, facts: HostFacts, slot: str) -> None:
        memory, store = self._context.memory, self._context.means.store
        store.raise_floor(raised_floor(store.floor(), pending.rollback_index))
        memory.queue_event(talk.complete_event(pending.version_from))
        memory.note(self._context.now(), "confirmed", facts.version, f"slot {slot}, was {pending.version_from}")
        memory.rolled_back = memory.last_error = memory.pending = None
        store.forget_bad_boots()
        log.info(
            "confirmed",
            message_id=message_ids.BOOT_CONFIRMED,
            version=facts.version,
            version_before=pending.version_from,
            slot=slot,
        )

    async def fall_back(self) -> tuple[Event, ...]:
        """Reboot, so that the boot loader uses up the tries and comes back to the good slot.

        Raises:
            LocalError: BOOT_CONTROL when nothing is there to come back to; the reboot was refused, its command failed.
        """
        if not await self._context.patiently(asyncio.to_thread(self._can_fall_back)):
            raise LocalError(
                ErrorCode.BOOT_CONTROL,
                "the other slot can't be booted any more: a reboot might end in none",
                hint="`update-ctl slots` shows both: make the other one boot again, or reboot by hand.",
            )
        self._context.fall_backs += 1
        await self._context.means.reboot(self._context.beat)
        return ()
