"""The work with the server: check, report, ping, and when to do so next."""

from __future__ import annotations

from updated.agent import talk
from updated.agent.backoff import same_payload
from updated.agent.context import Context
from updated.agent.machine import Event, State
from updated.common.log import get_logger
from updated.confirm.rollback import fall_back_retry_secs
from updated.errors import RefusedError, UpdateError
from updated.omaha import schedule
from updated.omaha.protocol import NoUpdate, Offer

REJUDGE_SECS = 300.0  # at most, to the next judgement of a boot that isn't confirmed: nothing else goes on meanwhile

log = get_logger("check")


class ServerWork:
    """Effects that speak Omaha."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._talk = talk.Talk(context.means.settings.server)
        self._poll_interval_secs: int | None = None
        self._failures = 0
        self._checked = False
        self.offer: Offer | None = None  # what install() is to take

    def renew(self) -> None:
        """Speak to the server that the settings name now."""
        server = self._context.means.settings.server
        if self._talk.settings != server:
            self._talk, self._poll_interval_secs, self._failures = talk.Talk(server), None, 0

    async def check(self, *, take: bool, on_demand: bool) -> tuple[Event, ...]:
        """Ask the server; with `take`, a release that it offers will be installed.

        Raises:
            UpdateError: see `Talk.check`.
        """
        context = self._context
        facts, _ = context.recall_host()
        self._checked = True
        context.view.refusal, context.view.version_new, context.view.update_available = None, None, False
        context.view.by_hand = context.view.backoff = None
        try:
            decision = await self._talk.check(facts, context.memory, on_demand=on_demand)
        except UpdateError as error:
            self._failures += 1
            if isinstance(error, RefusedError):
                context.view.refusal = error.message
            raise
        if isinstance(decision, Offer):
            context.memory.backoff = same_payload(context.memory.backoff, decision)
            context.show_backoff()
        deferred = take and not on_demand and context.view.backoff is not None
        self._note_check(decision, deferred=deferred)
        return self._consider(decision, take=take, deferred=deferred)

    def _note_check(self, decision: Offer | NoUpdate, *, deferred: bool) -> None:
        context = self._context
        self._failures = 0
        self._poll_interval_secs = decision.poll_interval_secs
        context.memory.last_check = context.now()
        if not deferred:  # else it is why
            context.memory.last_error = None  # of an earlier attempt; this one has begun well
        context.view.last_check_unix = int(context.means.clock.now().timestamp())
        context.save()

    def _consider(self, decision: Offer | NoUpdate, *, take: bool, deferred: bool) -> tuple[Event, ...]:
        view, memory = self._context.view, self._context.memory
        if isinstance(decision, NoUpdate):
            view.refusal = decision.reason
            return (Event.NO_UPDATE,)
        if decision.version in memory.failed_versions:
            view.refusal = f"version {decision.version} is offered, but it failed here before, or was rolled back from"
            return (Event.NO_UPDATE,)
        view.version_new, view.update_available = decision.version, True
        if not take:
            return (Event.OFFER_NOTED,)
        if deferred and memory.backoff is not None:
            log.info("deferred-for-backoff", version=decision.version, reason=memory.backoff.why)
            memory.queue_event(talk.deferred_event())
            return (Event.OFFER_DEFERRED,)
        self.offer = decision
        view.bytes_total, view.bytes_done, view.bytes_reused = decision.size, 0, 0
        memory.queue_event(talk.DOWNLOAD_STARTED)
        return (Event.OFFER_TAKEN,)

    async def report(self) -> tuple[Event, ...]:
        """Deliver the outbox as far as the server takes it."""
        return await self._deliver(ping=False)

    async def ping(self) -> tuple[Event, ...]:
        """Tell the server that this host lives and waits for its reboot."""
        return await self._deliver(ping=True)

    async def _deliver(self, *, ping: bool) -> tuple[Event, ...]:
        facts, _ = self._context.known()
        await self._talk.deliver(facts, self._context.memory, ping=ping)
        self._context.save()
        return (Event.REPORTED,)

    def next_check_secs(self) -> float | None:
        """Return the seconds until the next poll (or health check), None when there is no server to poll."""
        if self._context.view.state is State.FALLING_BACK:
            return fall_back_retry_secs(self._context.fall_backs)
        if self._context.view.state is not State.UNHEALTHY and not self._talk.enabled:
            return None
        server = self._context.means.settings.server
        secs = schedule.next_check_secs(
            fraction=self._context.means.fraction(),
            first=not self._checked,
            failures=self._failures,
            initial_secs=server.initial_delay_secs,
            interval_secs=server.poll_interval_secs,
            server_interval_secs=self._poll_interval_secs,
        )
        return min(secs, REJUDGE_SECS) if self._context.view.state is State.UNHEALTHY else secs
