"""The steps that hosts and operators take on a group's tickets, over any store.

Each step reads first, so that it may be repeated: after a lost answer, a restart or a race it finds what it did
before and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from lockd.errors import ErrorCode, RefusedError, RemoteError, Retry
from lockd.store import Store
from lockd.tickets import (
    Claim,
    Group,
    GroupSettings,
    Pause,
    Phase,
    Ticket,
    Unlock,
    held_back,
    may_go_down,
    may_take,
)
from updated.common.clock import Clock, rfc3339

ATTEMPTS = 8  # races lost in a row before a step gives up for now


NOTHING_SEEN = Group(GroupSettings(), ())  # not for a decision: to queue up with the first request


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this host is, in this boot."""

    machine_id: str
    boot_id: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """The group, this host's ticket in it, and why nobody is granted a slot for now (`tickets.held_back`)."""

    group: Group
    ticket: Ticket
    held_back: str = ""

    @property
    def granted(self) -> bool:
        """Whether this host may go down."""
        return not self.held_back and may_go_down(self.group, self.ticket)


class Semaphore:
    """A group's reboot semaphore as one host sees it."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        identity: Identity,
        *,
        expected_down_secs: float = 1800.0,
        keep_after_rollback: bool = True,
    ) -> None:
        self.store = store
        self.identity = identity
        self.keep_after_rollback = keep_after_rollback  # and pause the group: policy `on_rollback`
        self._clock = clock
        self._expected_down = timedelta(seconds=expected_down_secs)

    async def read(self) -> Group:
        """Return the whole group as it is now, which costs the more the more wait.

        Raises:
            LockdError: the store can't be reached or understood.
        """
        return await self.store.read()

    async def look(self) -> Group:
        """Return what this host has to see of the group: it costs the same however many wait.

        Raises:
            LockdError: the store can't be reached or understood.
        """
        return await self.store.look(self.identity.machine_id)

    async def acquire(self, version_from: str, version_to: str, *, seen: Group | None = None) -> Standing:
        """Queue up if this host isn't in the queue, and take a slot if it is its turn.

        `seen` saves the first look: what was just read, or `NOTHING_SEEN` for a host that knows of no ticket.

        Raises:
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        claim = self._claim(Phase.WAITING, version_from, version_to)
        for _attempt in range(ATTEMPTS):
            group, seen = seen or await self.look(), None
            own = group.of(self.identity.machine_id)
            if own is None:
                seen = await self.store.enqueue(claim)
                continue
            stop = held_back(group, own, self._clock.now())
            if stop or not may_take(group, own):
                return Standing(group, own, stop)
            granted = await self.store.grant(group, own, self._claim(Phase.HELD, version_from, version_to))
            if granted is not None:
                return Standing(group.replaced(granted), granted)
        raise _conflict("taking a slot")

    async def commit(self, standing: Standing, version_from: str, version_to: str) -> bool:
        """Write down that this host goes down now; False when the ticket or the group changed since `standing`.

        This is the last look before the reboot: it can't succeed on anything stale. The answer to it brings a look of
        its own, by which the rule must hold too, so that one wrong answer isn't enough to go down on.

        Raises:
            LockdError: the store can't be reached or understood.
        """
        if not standing.granted:
            return False
        claim = self._claim(Phase.REBOOTING, version_from, version_to)
        group = await self.store.commit(standing.group, standing.ticket, claim)
        own = group.of(self.identity.machine_id) if group else None
        if group is None or own is None:
            return False
        held = replace(own.claim, phase=Phase.HELD, since=self._now())
        if may_go_down(group, replace(own, claim=held)):
            return True
        await self.store.amend(own, held)
        return False

    async def undo_commit(self) -> None:
        """Write down that the reboot didn't come about and this host is still up.

        Raises:
            LockdError: the store can't be reached or understood.
        """
        own = (await self.look()).of(self.identity.machine_id)
        if own and own.claim.phase is Phase.REBOOTING and own.claim.boot_id == self.identity.boot_id:
            await self.store.amend(own, replace(own.claim, phase=Phase.HELD, since=self._now()))

    async def give_back(self, ticket: Ticket) -> bool:
        """Remove this host's ticket; False when it isn't that ticket any more.

        Raises:
            LockdError: the store can't be reached or understood.
        """
        return await self.store.remove(ticket)

    async def record_rollback(self, ticket: Ticket, reason: str) -> None:
        """Pause the group, unless it is, and mark the ticket, which stays.

        Raises:
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        await self.pause(by=self.identity.machine_id, reason=reason)
        claim = replace(ticket.claim, phase=Phase.ROLLED_BACK, since=self._now(), detail=reason)
        await self.store.amend(ticket, claim)

    async def pause(self, *, by: str, reason: str) -> Group:
        """Let nobody take a slot until `resume`; a pause that is there stays as it is.

        Raises:
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        made = Pause(by, reason, self._now())
        return await self._change_settings(lambda settings: replace(settings, pause=settings.pause or made))

    async def resume(self) -> Group:
        """End a pause, if there is one.

        Raises:
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        return await self._change_settings(lambda settings: replace(settings, pause=None))

    async def set_max(self, limit: int, *, percent: int = 0, known: int = 0) -> Group:
        """Set how many may be down at once; return the group as it was before.

        `percent` and `known` are for the record: what the number was made from.

        Raises:
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        return await self._change_settings(lambda settings: replace(settings, max=limit, percent=percent, known=known))

    async def set_policy(self, *, min_interval_secs: int | None = None, overdue_budget: int | None = None) -> Group:
        """Set what else holds grants back (`tickets.held_back`), None leaving it; return the group as it was before.

        Raises:
            LockdError: the store can't be reached or understood, or others kept changing it.
        """

        def change(settings: GroupSettings) -> GroupSettings:
            interval = settings.min_interval_secs if min_interval_secs is None else min_interval_secs
            budget = settings.overdue_budget if overdue_budget is None else overdue_budget
            return replace(settings, min_interval_secs=interval, overdue_budget=budget)

        return await self._change_settings(change)

    async def lock_by_hand(self, machine_id: str) -> None:
        """Take a slot for a host now, or leave nothing behind; one that was taken by hand before will do.

        Raises:
            RefusedError: no slot is free, the group is paused, or the host has a slot of its own, for a reboot.
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        claim = replace(self._claim(Phase.WAITING, "", ""), machine_id=machine_id, detail="taken by hand")
        for _attempt in range(ATTEMPTS):
            group = await self.store.look(machine_id)
            ticket = group.of(machine_id)
            if ticket is None:
                await self.store.enqueue(claim)
                continue
            if ticket.holds:
                _check_taken_by_hand(ticket)
                return
            stop = held_back(group, ticket, self._clock.now())
            if stop or not may_take(group, ticket):
                if ticket.claim.detail == claim.detail:  # not a ticket that the host's own lockd waits with
                    await self.store.remove(ticket)
                raise _full(replace(group, tickets=tuple(other for other in group.tickets if other != ticket)), stop)
            await self.store.grant(group, ticket, replace(claim, phase=Phase.MANUAL))
        raise _conflict("taking a slot")

    async def unlock_by_hand(self, machine_id: str, *, force: bool, by: str = "", reason: str = "") -> Ticket:
        """Remove a host's ticket and return it; by force, with a record of who did it and why.

        Raises:
            RefusedError: there is none, or it needs force: its host may be down.
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        for _attempt in range(ATTEMPTS):
            ticket = (await self.store.look(machine_id)).of(machine_id)
            if ticket is None:
                raise RefusedError(
                    ErrorCode.TICKET_MISSING, f"{machine_id} has no ticket", hint="`lockctl status` shows who has one."
                )
            if not force:
                _check_harmless(ticket)
                removed = await self.store.remove(ticket)
            else:
                phase, since = ticket.claim.phase.value, ticket.claim.since
                removed = await self.store.unlock(ticket, Unlock(machine_id, by, reason, self._now(), phase, since))
            if removed:
                return ticket
        raise _conflict("removing a ticket")

    async def _change_settings(self, change: Callable[[GroupSettings], GroupSettings]) -> Group:
        for _attempt in range(ATTEMPTS):
            group = await self.look()
            wanted = change(group.settings)
            if wanted == group.settings or await self.store.put_settings(group, wanted):
                return group
        raise _conflict("changing the group's settings")

    def _claim(self, phase: Phase, version_from: str, version_to: str) -> Claim:
        return Claim(
            machine_id=self.identity.machine_id,
            phase=phase,
            boot_id=self.identity.boot_id,
            host=self.identity.host,
            version_from=version_from,
            version_to=version_to,
            since=self._now(),
            expected_back=rfc3339(self._clock.now() + self._expected_down),
        )

    def _now(self) -> str:
        return rfc3339(self._clock.now())


def _check_taken_by_hand(ticket: Ticket) -> None:
    claim = ticket.claim
    if claim.phase is not Phase.MANUAL:
        raise RefusedError(
            ErrorCode.FORCE_NEEDED,
            f"{claim.machine_id} is {claim.phase.value}{claim.since and ' since '}{claim.since}: it has a slot for its "
            f"own reboot, not by hand{claim.detail and ': '}{claim.detail}",
            hint="Its lockd gives that back by itself once it is up and healthy; lock it then. If you know better: "
            "`lockctl unlock ID --force --reason WHY`, and lock again.",
        )


def _check_harmless(ticket: Ticket) -> None:
    claim = ticket.claim
    if claim.phase not in (Phase.MANUAL, Phase.WAITING):
        raise RefusedError(
            ErrorCode.FORCE_NEEDED,
            f"{claim.machine_id} is {claim.phase.value} since {claim.since}: it may be down or unwell",
            hint="Its lockd gives the slot back by itself once it is up and healthy. When you know that it "
            "doesn't count any more: `lockctl unlock ID --force --reason WHY`.",
        )


def _full(group: Group, stop: str) -> RefusedError:
    pause = group.settings.pause
    if pause is not None:
        return RefusedError(
            ErrorCode.GROUP_PAUSED, f"the group is paused by {pause.by} since {pause.at}: {pause.reason}",
            hint="`lockctl resume` ends the pause.", retry=Retry.LATER,
        )  # fmt: skip
    names = ", ".join(ticket.machine_id for ticket in group.holders) or "nobody"
    queued = max(group.queued - 1, 0)  # without the ticket that was taken back
    return RefusedError(
        ErrorCode.SEMAPHORE_FULL,
        stop or f"no slot is free: at most {group.settings.max}, held by {names}, {queued} in the queue",
        hint="Try again when one was given back; `lockctl status` shows who holds and who waits.", retry=Retry.LATER,
    )  # fmt: skip


def _conflict(doing: str) -> RemoteError:
    return RemoteError(
        ErrorCode.ETCD_CONFLICT, f"{doing} lost {ATTEMPTS} races in a row", hint="Try again.", retry=Retry.LATER
    )
