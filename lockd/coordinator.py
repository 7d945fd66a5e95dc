"""Drives one host through the gates: look, take at most one step, wait for something to change.

Every step starts from what the agent, the store and the clock say at that moment, so that it may be cut and started
again anywhere. When anything can't be found out, the step ends there, and the host doesn't reboot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from lockd import gates, milestones, status, windows
from lockd.agent import AgentView, rolled_back_since
from lockd.errors import ErrorCode, LockdError, RefusedError
from lockd.means import Means, Policy
from lockd.rest import rest_until
from lockd.semaphore import NOTHING_SEEN, Standing
from lockd.surroundings import Surroundings, kept_alive, need_of
from lockd.tickets import Phase, Ticket
from updated.common.log import get_logger

__all__ = ["Coordinator", "Means", "Policy"]

logger = get_logger("coordinator")

LOOK_SECS = 1800.0  # a look that takes longer, but for programs, hangs: the watchdog isn't fed any more, and ends it
REST_SECS = 30.0  # the longest time without a look at the clock and the agent
AGAIN_SECS = 0.5  # before looking again at what changed under us
RETRY_SECS, RETRY_LIMIT_SECS = 2.0, 60.0  # after an error: doubled each time, spread by half
PATIENT_FAILURES = 5  # looks in a row that failed: about a minute, after which a drained host goes back into service
REBOOTS = (ErrorCode.REBOOT_FAILED, ErrorCode.REBOOT_REFUSED, ErrorCode.REBOOT_IN_DOUBT)
PLACES = {**dict.fromkeys(REBOOTS, "reboot"), ErrorCode.DRAIN_FAILED: "drain"}
COUNTDOWN_SECS = 10.0  # between two looks while people are counted down


class Coordinator:
    """One host's way to its reboot."""

    def __init__(self, policy: Policy, means: Means, *, machine_id: str, boot_id: str) -> None:
        self._policy, self._means = policy, means
        self.view = status.View(policy.strategy, policy.group, machine_id, boot_id)
        self._wake = asyncio.Event()
        self._stepped = asyncio.Condition()
        self._settled = means.semaphore is None  # no ticket of ours is in the store, as far as we know
        self._standing: Standing | None = None  # while we wait in the queue
        self._reboot_asked_at: float | None = None  # monotonic
        self._in_doubt = False  # we may have written that we go, and didn't go
        self._failures = 0
        self._beside: tuple[gates.Gate, ...] = ()  # what is wrong with this host beside the way to the reboot
        self._looking = False
        self._around = Surroundings(policy, means, machine_id)

    def wake(self) -> None:
        """Look again now: something changed."""
        self._wake.set()

    async def ask(self) -> None:
        """A human asks for a reboot; return after the next look, when the gates say how it stands.

        Raises:
            RefusedError: the policy is never to reboot.
        """
        if self._policy.strategy == "off":
            raise RefusedError(
                ErrorCode.BUSY, "the policy says that lockd never reboots (strategy off)", hint="`systemctl reboot`."
            )
        self.view.asked = True
        self._around.forgive()
        async with self._stepped:
            enough = self.view.steps + (2 if self._looking else 1)  # a look under way may not have seen the request
            self.wake()
            await self._stepped.wait_for(lambda: self.view.steps >= enough)

    async def leave(self) -> None:
        """The daemon ends, or goes on by other settings: nobody is counted down any more."""
        await self._around.leave()

    async def dismiss(self) -> None:
        """The daemon ends: whoever waits for a look is answered by how it stands."""
        async with self._stepped:
            self.view.steps += 2
            self._stepped.notify_all()

    async def adopt(self, policy: Policy, means: Means, machine_id: str) -> None:
        """Go on by other settings; between two looks only. What failed before is tried again at once."""
        await self.leave()
        view = self.view
        view.strategy, view.group_name, view.machine_id, view.group = policy.strategy, policy.group, machine_id, None
        self._policy, self._means = policy, means
        self._settled, self._standing = means.semaphore is None, None
        self._around = Surroundings(policy, means, machine_id)

    async def run(self, before_look: Callable[[], Awaitable[None]] | None = None) -> None:
        """Go on until cancelled; `before_look` runs between two looks, and may have other settings adopted."""
        while True:
            self._wake.clear()
            if before_look is not None:
                await before_look()
            self._looking = True
            rest = await kept_alive(self._means.notifier, self.step(), limit_secs=LOOK_SECS)
            self._means.notifier.watchdog()
            async with self._stepped:
                self._looking = False
                self.view.steps += 1
                self._stepped.notify_all()
            await rest_until(self._means, self._wake, self._standing, rest)

    async def step(self) -> float:
        """Look at everything and take at most one step; return how long to rest, in seconds."""
        try:
            rest = await self._look()
        except LockdError as error:
            return self._note(error)
        self._failures, self.view.last_error = 0, None
        self._tell()
        return rest

    # ---- one look

    async def _look(self) -> float:
        self._standing, self._beside = None, ()
        seen = await self._means.agent.look()
        self.view.version, self.view.slot = seen.version_booted, seen.slot_booted
        facts = await self._facts(seen, None)
        self._show(facts, "blocked" if facts.need.wanted else "idle")
        try:
            own = await self._own_ticket()
        except LockdError:
            if not gates.may_ask_for_ticket(facts) or self._failures >= PATIENT_FAILURES:
                await self._stand_down(seen)  # what it was drained for doesn't come about for now
            raise
        if own is not None and await self._settle(own, seen):
            return REST_SECS
        if own is None and self._is_well(seen) and (problem := await self._around.after_boot(seen)):
            self._add_beside("post-boot", problem)
        if not gates.may_ask_for_ticket(facts):
            await self._stand_down(seen)
            if own is not None:
                await self._withdraw(own, seen)
            return self._until_edge(facts)
        if not self._asked_lately() and await self._people_hold(facts, seen):
            await self._wait_for_people(own, seen)
            return COUNTDOWN_SECS
        return await self._approach(seen)

    async def _people_hold(self, facts: gates.Facts, seen: AgentView) -> bool:
        people = await self._around.people(seen, self._version_to(seen), facts.need.reason)
        if people:
            self._show(replace(facts, blockers=people), "blocked")
        return bool(people)

    async def _wait_for_people(self, own: Ticket | None, seen: AgentView) -> None:
        """Keep our place in the queue while people are counted down, but no slot."""
        if own is None or self._means.semaphore is None:
            return
        if own.claim.phase is Phase.WAITING:
            await self._means.semaphore.store.keep(own)
        else:
            await self._withdraw(own, seen)

    async def _own_ticket(self) -> Ticket | None:
        """Return this host's ticket; the store is only asked when there may be one."""
        semaphore = self._means.semaphore
        if semaphore is None or self._settled:
            self.view.group = None
            return None
        self.view.group = await semaphore.look()
        own = self.view.group.of(self.view.machine_id)
        self._settled = own is None
        gone = own is not None and own.claim.phase is Phase.REBOOTING and own.claim.boot_id == self.view.boot_id
        if gone and self._reboot_asked_at is None and not self._in_doubt:
            # the lockd before this one wrote that; the reboot that it asked for has as long to come as one of ours
            self._reboot_asked_at = self._means.clock.monotonic()
        return own

    async def _settle(self, own: Ticket, seen: AgentView) -> bool:
        """Deal with the slot of the last reboot; True when it stays and nothing else may go on."""
        semaphore, claim = self._means.semaphore, own.claim
        if semaphore is None or claim.boot_id == self.view.boot_id:
            return False
        if claim.phase not in (Phase.HELD, Phase.REBOOTING, Phase.ROLLED_BACK):
            return False
        if semaphore.keep_after_rollback and rolled_back_since(seen, claim):
            if claim.phase is not Phase.ROLLED_BACK:
                reason = f"version {claim.version_to or 'unknown'} did not boot well on {claim.host or own.machine_id}"
                milestones.tell_rolled_back(own, seen, reason, self._policy.group)
                await semaphore.record_rollback(own, reason)
                self.view.group = await semaphore.look()
            if not seen.need_reboot:
                self._keep_slot(own, "rolled-back", "this host rolled back and keeps its slot")
                return True
            return False  # a newer release is installed: the slot that we have takes us there
        if not await self._is_back(own, seen):
            return True
        if await semaphore.give_back(own):
            milestones.tell_released(claim, seen, self._policy.group)
        self._settled = True
        self.wake()  # look again at once: another update may be waiting
        return True

    async def _is_back(self, own: Ticket, seen: AgentView) -> bool:
        """Tell whether this boot is healthy and the host in service again."""
        if seen.healthy is not True:
            self._keep_slot(own, "confirming", seen.problem or "this boot isn't confirmed healthy yet")
            return False
        if problem := await self._around.after_boot(seen):
            self._keep_slot(own, "post-boot", problem)
            return False
        return True

    def _is_well(self, seen: AgentView) -> bool:
        """Tell whether this boot is healthy; an agent that never tells mustn't keep a host without tickets drained."""
        return seen.healthy is True or (seen.healthy is None and seen.known and self._means.semaphore is None)

    def _keep_slot(self, own: Ticket, state: str, reason: str) -> None:
        self.view.state = state
        self.view.gates = (status.release_gate(own, reason), *self.view.gates)

    async def _withdraw(self, own: Ticket, seen: AgentView) -> None:
        """Leave the queue, or give back a slot that isn't used; a host that was told to go down keeps it.

        A place in the queue may be of another boot: the answer to it got lost, and the host went down by other means.
        """
        semaphore, phase = self._means.semaphore, own.claim.phase
        unused = phase is Phase.HELD or (phase is Phase.REBOOTING and self._reboot_came_to_nothing())
        if semaphore is None or not (phase is Phase.WAITING or (unused and own.claim.boot_id == self.view.boot_id)):
            return
        if phase is Phase.WAITING and not seen.known:
            await semaphore.store.keep(own)  # not knowing isn't a reason to lose our place
            return
        if await semaphore.give_back(own):
            logger.info("ticket-withdrawn", phase=phase.value, group=self._policy.group)
        self._settled = True

    # ---- towards the reboot

    async def _approach(self, seen: AgentView) -> float:
        standing = await self._acquire(seen)
        facts = await self._facts(seen, standing)
        chain = self._show(facts, "waiting")
        if gates.closed_gate(chain) is not None:
            await self._stand_down(seen, still_waiting=True)
            self._standing = standing
            return REST_SECS
        if self._asked_lately():
            self.view.state = "rebooting"
            return REST_SECS
        return await self._go(standing, seen)

    async def _acquire(self, seen: AgentView) -> Standing | None:
        if self._means.semaphore is None:
            return None
        group = NOTHING_SEEN if self._settled else self.view.group
        self._settled = False  # whatever becomes of the answer
        standing = await self._means.semaphore.acquire(seen.version_booted, self._version_to(seen), seen=group)
        milestones.tell_taken(group, standing.ticket, self._policy.group)
        self.view.group = standing.group
        return standing

    async def _go(self, standing: Standing | None, seen: AgentView) -> float:
        """Drain, look at everything once more, write down that we go, and go."""
        try:
            await self._around.drain(seen, self._version_to(seen))
        except LockdError:
            if standing is not None and self._means.semaphore is not None:
                await self._means.semaphore.give_back(standing.ticket)
            raise
        seen = await self._means.agent.look()
        facts = await self._facts(seen, standing)
        if gates.closed_gate(self._show(facts, "blocked")) is not None or await self._people_hold(facts, seen):
            return AGAIN_SECS  # the next look gives back what isn't used
        if standing is not None and not await self._commit(standing, seen):
            return AGAIN_SECS  # the group changed under us
        await self._reboot(seen)
        self.view.state = "rebooting"
        return REST_SECS

    async def _reboot(self, seen: AgentView) -> None:
        """Ask for the reboot; whatever isn't a clear no may still bring it about, and the slot is kept until then."""
        milestones.tell_reboot(seen, self._version_to(seen), self._policy.group)
        try:
            await self._means.reboot()
        except LockdError as error:
            if error.code is ErrorCode.REBOOT_IN_DOUBT:
                self._note_asked()
            else:
                self._around.set_back("reboot", error, self._version_to(seen))
                await self._undo()
                await self._stand_down(seen)
            raise
        self._around.went_well()
        self._note_asked()

    def _note_asked(self) -> None:
        self._reboot_asked_at, self._in_doubt = self._means.clock.monotonic(), False

    async def _commit(self, standing: Standing, seen: AgentView) -> bool:
        semaphore = self._means.semaphore
        if semaphore is None:
            return True
        self._in_doubt = True
        return await semaphore.commit(standing, seen.version_booted, self._version_to(seen))

    async def _stand_down(self, seen: AgentView, *, still_waiting: bool = False) -> None:
        if self._asked_lately():
            return
        problem = await self._around.stand_down(seen, self._version_to(seen), still_waiting=still_waiting)
        if problem:
            self._add_beside("drain", f"this host was drained and isn't back in service: {problem}")

    async def _undo(self) -> None:
        if self._means.semaphore is None:
            return
        try:
            await self._means.semaphore.undo_commit()
        except LockdError as error:  # what stopped the reboot is what counts; the ticket only says too much
            logger.warning("undo-failed", error=error.message)

    def _asked_lately(self) -> bool:
        """Whether the machine should be on its way down from the last time that we asked."""
        if self._reboot_asked_at is None:
            return False
        return self._means.clock.monotonic() - self._reboot_asked_at < self._policy.reboot_retry_secs

    def _reboot_came_to_nothing(self) -> bool:
        """Whether we didn't ask, or so long ago that this boot would be over if the reboot had come about."""
        return self._in_doubt or (self._reboot_asked_at is not None and not self._asked_lately())

    # ---- facts

    def _wanted(self, seen: AgentView) -> bool:
        return seen.need_reboot or self.view.asked

    def _version_to(self, seen: AgentView) -> str:
        return seen.version_new if seen.need_reboot else ""

    async def _facts(self, seen: AgentView, standing: Standing | None) -> gates.Facts:
        now = self._means.clock.now()
        outlook = self.view.outlook = windows.look(self._policy.windows, now, self._policy.blackouts)
        wanted = self._wanted(seen)
        if seen.known and not wanted:
            self._around.rest()
        ask = wanted and self._policy.strategy != "off"
        blockers = await self._around.blockers(seen, self._version_to(seen), near=outlook.open) if ask else ()
        now = self._means.clock.now()  # programs take their time
        outlook = self.view.outlook = windows.look(self._policy.windows, now, self._policy.blackouts)
        return gates.Facts(
            now=now,
            need=need_of(seen, asked=self.view.asked, with_tickets=self._means.semaphore is not None),
            strategy=self._policy.strategy,
            blockers=blockers,
            outlook=outlook,
            min_remaining_secs=self._policy.min_remaining_secs,
            ticket=status.ticket_stand(standing) if standing else None,
            turn=self._around.turn(outlook, now, at_once=self.view.asked) if wanted else None,
            settings_problem=self._means.settings_problem(),
        )

    # ---- telling and waiting

    def _show(self, facts: gates.Facts, state: str) -> tuple[gates.Gate, ...]:
        chain = gates.look(facts)
        self.view.gates, self.view.state = (*chain, *self._beside), state
        return chain

    def _add_beside(self, gate: str, reason: str) -> None:
        ends = "it ends well: it is tried again at each look"
        self._beside += (gates.Gate(gate, gates.State.CLOSED, reason, ends, who=gates.HOST),)
        self.view.gates += self._beside[-1:]

    def _tell(self) -> None:
        blocked = gates.closed_gate(self.view.gates)
        self._means.notifier.status(f"{blocked.gate}: {blocked.reason}" if blocked else self.view.state)

    def _note(self, error: LockdError) -> float:
        """Keep an error for `status` and `explain`; return when to try again."""
        now = self._means.clock.now()
        if self.view.last_error is None or self.view.last_error["code"] != int(error.code):
            logger.warning("step-failed", error=error.message, name=error.name)
        self.view.last_error = status.error_document(error, now)
        self.view.state = "blocked"
        place = PLACES.get(error.code, "ticket")
        fault = gates.Gate(place, gates.State.CLOSED, f"{error.message} [{error.name}]", error.hint)
        self.view.gates = (*(gate for gate in self.view.gates if gate.gate != place), fault)
        self._tell()
        secs: float = min(RETRY_SECS * 2.0**self._failures, RETRY_LIMIT_SECS)
        self._failures = min(self._failures + 1, 16)
        return min(secs * (0.5 + self._means.fraction()), REST_SECS)

    def _until_edge(self, facts: gates.Facts) -> float:
        """Return how long nothing changes by itself, as far as the windows go."""
        edge = facts.outlook.next_open
        if facts.outlook.open or edge is None:
            return REST_SECS
        return max(0.0, min(REST_SECS, (edge - facts.now).total_seconds()))
