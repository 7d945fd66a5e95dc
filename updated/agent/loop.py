"""Performs what the state machine says: one queue of events, one piece of work at a time.

The loop owns the view (what status shows) and the memory (what survives). Long work runs as a task that posts its
outcome as an event; anything unexpected in it ends the daemon, and systemd starts it afresh.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from updated.agent import backoff, message_ids
from updated.agent.boot_work import BootWork
from updated.agent.by_hand import Given
from updated.agent.context import Context, Means
from updated.agent.install_work import InstallWork
from updated.agent.machine import Effect, Event, State, accepts, step
from updated.agent.reload import Change, compare
from updated.agent.rollback_work import RollbackWork
from updated.agent.server_work import ServerWork
from updated.agent.status import View
from updated.agent.talk import error_event
from updated.common.clock import rfc3339
from updated.common.log import configure, get_logger
from updated.common.notify import Notifier
from updated.common.own_io import bytes_moved
from updated.errors import ErrorCode, RefusedError, Retry, UpdateError

log = get_logger("agent")

FAILURES = {
    Effect.JUDGE_HEALTH: Event.UNHEALTHY_BOOT,
    Effect.GIVE_UP: Event.GIVE_UP_FAILED,
    Effect.FALL_BACK: Event.FALL_BACK_FAILED,
    Effect.CHECK: Event.CHECK_FAILED,
    Effect.CHECK_AND_INSTALL: Event.CHECK_FAILED,
    Effect.INSTALL: Event.INSTALL_FAILED,
    Effect.INSTALL_BY_HAND: Event.INSTALL_FAILED,
    Effect.ROLL_BACK: Event.ROLLBACK_FAILED,
    Effect.ARM: Event.INSTALL_FAILED,
    Effect.DISARM: Event.DISARM_FAILED,
    Effect.REPORT: Event.REPORTED,  # what could not be told stays in the outbox for the next time
    Effect.PING: Event.REPORTED,
}
MOVED_BYTES = 1024 * 1024  # between two looks of the watchdog's: far less than any medium does, far more than log lines
SETTLED = frozenset({State.IDLE, State.NEED_REBOOT, State.UNHEALTHY, State.FALLING_BACK})


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event and what came with it."""

    event: Event
    error: UpdateError | None = None
    given: Given | None = None


class Agent:
    """The update agent of one host."""

    def __init__(self, context: Context, notifier: Notifier) -> None:
        self.context = context
        self.view: View = context.view
        self._clock = context.means.clock
        self._boot, self._server, self._install = BootWork(context), ServerWork(context), InstallWork(context)
        self._rollback = RollbackWork(context)
        self._notifier = notifier
        self._queue: asyncio.Queue[Occurrence] = asyncio.Queue()
        self._tasks: asyncio.TaskGroup | None = None
        self._timer: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[View], None]] = []
        self._settled = asyncio.Event()
        self._recalled: Callable[[], None] = lambda: None
        self._read: Callable[[], Means] = lambda: self.context.means
        self._renewed: Means | None = None  # what a reload read, until the agent is at rest
        context.on_progress = self._publish
        self._install.on_downloaded = lambda: self.post(Event.DOWNLOADED)

    def listen(self, listener: Callable[[View], None]) -> None:
        """Call `listener` after every change of the view."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[View], None]) -> None:
        """Don't call `listener` any more."""
        self._listeners.remove(listener)

    def when_reloaded(self, read: Callable[[], Means]) -> None:
        """Read the settings in this way when somebody asks for that; to be set before it runs."""
        self._read = read

    async def reload(self) -> Change:
        """Look at the settings again; those that can change while the agent runs do so once it is at rest.

        Raises:
            LocalError: CONFIG; the files are wrong, and what was in force stays so.
        """
        try:
            means = await asyncio.to_thread(self._read)
        except UpdateError as error:
            log.warning("settings-refused", code=error.name, message=error.message, hint=error.hint)
            raise
        change = compare(self.context.means.settings, means.settings)
        self._renewed = dataclasses.replace(self.context.means, settings=change.settings, reboot=means.reboot)
        log.info("settings-read", changed=" ".join(change.changed), needs_restart=" ".join(change.needs_restart))
        if change.needs_restart:
            log.warning("restart-needed", settings=" ".join(change.needs_restart), hint="systemctl restart updated")
        self._renew()
        return change

    def _renew(self) -> None:
        """Put new settings in force, unless work is under way that began with the old ones."""
        if self._renewed is None or self.view.state not in SETTLED:
            return
        self.context.means, self._renewed = self._renewed, None
        self._server.renew()
        configure(self.context.means.settings.log_level)
        if self.view.next_check is not None or self.view.state is State.IDLE:
            self._schedule()
            self._publish()

    def when_recalled(self, callback: Callable[[], None]) -> None:
        """Call back once the agent knows its slots and its state; to be set before it runs."""
        self._recalled = callback

    def post(self, event: Event, error: UpdateError | None = None) -> None:
        """Queue an event; safe from the event loop's thread only."""
        self._settled.clear()
        self._queue.put_nowait(Occurrence(event, error))

    def ask(self, event: Event) -> None:
        """Queue what a person asked for.

        Raises:
            RefusedError: BUSY; the agent's state has no place for it.
        """
        if not accepts(self.view.state, event):
            raise self._busy()
        self.post(event)

    def apply(self, given: Given) -> None:
        """Queue the install of what a person gave; it is closed in the end, also when it is refused.

        Raises:
            RefusedError: BUSY; the agent is at work, or about to be.
        """
        if not accepts(self.view.state, Event.ASKED_APPLY) or not self._queue.empty():
            given.close()
            raise self._busy()
        self._settled.clear()
        self._queue.put_nowait(Occurrence(Event.ASKED_APPLY, given=given))

    def _busy(self) -> RefusedError:
        return RefusedError(
            ErrorCode.BUSY,
            f"not now: the agent is in state {self.view.state.value}",
            hint="See `update-ctl explain` for what would end this.",
            retry=Retry.LATER,
        )

    async def settled(self) -> None:
        """Wait until nothing is under way or queued."""
        await self._settled.wait()

    async def run(self) -> None:
        """Recall what was before, then handle events until cancelled.

        Raises:
            LocalError: the host's facts, the slots or the state directory can't be read.
        """
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            _ = tasks.create_task(self._feed_watchdog())
            self.post(await self.context.patiently(asyncio.to_thread(self._boot.recall)))
            log.info("ready", running=self.view.version_booted, slot=self.view.slot_booted)
            self._recalled()
            while True:
                await self._handle(await self._queue.get())

    async def _handle(self, occurrence: Occurrence) -> None:
        transition = step(self.view.state, occurrence.event)
        if transition is None:
            log.debug("dropped", stimulus=occurrence.event.value, state=self.view.state.value)
        else:
            log.info("transition", trigger=occurrence.event.value, state=transition.to.value, **self._versions())
            self.view.state = transition.to
            for effect in transition.effects:
                self._perform(effect, occurrence)
            self._publish()
        if self.view.state in SETTLED and self._queue.empty():
            self._renew()
            self._settled.set()

    def _versions(self) -> dict[str, str]:
        """Return what runs, and what is to run where there is something."""
        running, new = self.view.version_booted, self.view.version_new
        return {"running": running, "new": new} if new else {"running": running}

    def _perform(self, effect: Effect, occurrence: Occurrence) -> None:
        if effect is Effect.NOTE_ERROR:
            self._note_error(occurrence.error)
        elif effect is Effect.FORGET:
            self._forget()
        elif effect is Effect.SCHEDULE:
            self._schedule()
        else:
            if occurrence.given is not None:
                self._show_given(occurrence.given)
            _ = self._spawn(self._watch(effect, occurrence))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._tasks is None:
            raise AssertionError("effects are performed inside run()")
        return self._tasks.create_task(work)

    async def _watch(self, effect: Effect, occurrence: Occurrence) -> None:
        """Do a long piece of work; what comes of it, a failure too, is an event."""
        try:
            for event in await self._long_work(effect, occurrence):
                self.post(event)
        except UpdateError as error:
            if occurrence.given is not None:
                error.message = occurrence.given.hidden(error.message)
            self.post(FAILURES[effect], error)

    def _long_work(self, effect: Effect, occurrence: Occurrence) -> Coroutine[Any, Any, tuple[Event, ...]]:
        on_demand = occurrence.event is not Event.CHECK_DUE
        long_work: dict[Effect, Callable[[], Coroutine[Any, Any, tuple[Event, ...]]]] = {
            Effect.JUDGE_HEALTH: self._boot.judge_health,
            Effect.GIVE_UP: self._boot.give_up,
            Effect.FALL_BACK: self._boot.fall_back,
            Effect.CHECK: lambda: self._server.check(take=False, on_demand=on_demand),
            Effect.CHECK_AND_INSTALL: lambda: self._server.check(take=True, on_demand=on_demand),
            Effect.INSTALL: self._install_offer,
            Effect.INSTALL_BY_HAND: lambda: self._install_by_hand(occurrence.given),
            Effect.ROLL_BACK: self._rollback.roll_back,
            Effect.ARM: self._install.arm,
            Effect.DISARM: self._install.disarm,
            Effect.REPORT: self._server.report,
            Effect.PING: self._server.ping,
        }
        return long_work[effect]()

    async def _install_offer(self) -> tuple[Event, ...]:
        if self._server.offer is None:
            raise AssertionError("an install follows an offer")
        return await self._install.install(self._server.offer)

    def _show_given(self, given: Given) -> None:
        """Show what is installed by hand, from the first status on that has it under way."""
        view = self.view
        view.by_hand, view.version_new, view.refusal, view.update_available = given.origin, None, None, False
        view.bytes_total, view.bytes_done, view.bytes_reused = given.size or 0, 0, 0
        self.context.memory.last_error = view.last_error = None  # of an earlier attempt

    async def _install_by_hand(self, given: Given | None) -> tuple[Event, ...]:
        if given is None:
            raise AssertionError("what is installed by hand was given")
        return await self._install.install(given.as_offer(), given)

    def _note_error(self, error: UpdateError | None) -> None:
        if error is None:
            return
        failed_install = self.view.state is State.REPORTING_ERROR
        log.error(
            "failed",
            message_id=message_ids.INSTALL_FAILED if failed_install else None,
            code=error.name,
            message=error.message,
            hint=error.hint,
            **self._versions(),
        )
        if failed_install:
            self._note_failure(error)
        self.context.note_error(error)

    def _note_failure(self, error: UpdateError) -> None:
        """Remember that an install failed; the server hears of its own offers only."""
        memory, by_hand = self.context.memory, self.view.by_hand
        if by_hand is None:
            memory.queue_event(error_event(error.reported))
            self._count_attempt(error)
        detail = f"by hand from {by_hand}: {error.message}" if by_hand else error.message
        memory.note(self.context.now(), "failed", self.view.version_new or "", detail)

    def _count_attempt(self, error: UpdateError) -> None:
        """Leave the offered payload alone for a while, if it lies with that or with its servers."""
        context, offer = self.context, self._server.offer
        if offer is not None and backoff.lies_with_payload(error):
            now, fraction = self._clock.now(), context.means.fraction()
            context.memory.backoff = backoff.after_failure(context.memory.backoff, offer, now, fraction)
        context.show_backoff()

    def _forget(self) -> None:
        """An operator wiped the slate: failures and refused versions count no more."""
        memory = self.context.memory
        memory.failed_versions.clear()
        memory.rolled_back = memory.last_error = memory.backoff = None
        self.view.refusal = self.view.backoff = None
        self.context.save()

    def _schedule(self) -> None:
        """Start the timer to the next check anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        delay = self._server.next_check_secs()
        if delay is None:
            self.view.next_check = None
            return
        self.view.next_check = rfc3339(self._clock.now() + timedelta(seconds=delay))
        self._timer = self._spawn(self._wake(delay))

    async def _wake(self, delay: float) -> None:
        await self._clock.sleep(delay)
        self.post(Event.CHECK_DUE)

    def _publish(self) -> None:
        self._notifier.status(f"{self.view.state.value} {self.view.version_new or self.view.version_booted}")
        for listener in self._listeners:
            listener(self.view)

    async def _feed_watchdog(self) -> None:
        """Tell systemd that we are alive, but not while work is under way that makes no progress.

        Progress is what the work tells, or data that are read and written: hashing a source, copying a slot and looking
        through what could be reused tell nothing while they last.
        """
        if self._notifier.watchdog_secs is None:
            return
        told, moved = -1, 0
        while True:
            now = bytes_moved()
            if self.context.pulse != told or now - moved >= MOVED_BYTES or self.view.state in SETTLED:
                self._notifier.watchdog()
            told, moved = self.context.pulse, now
            await self._clock.sleep(self._notifier.watchdog_secs / 4)
