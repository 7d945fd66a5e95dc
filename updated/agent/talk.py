"""The conversation with the Omaha server: checks, pings, and an outbox of events that survives its absence.

Events follow update_engine's sequence with Nebraska's needs (accepted pairs: 3/0, 3/1, 3/2, 13/1, 14/1, 800/1):
download started, finished, installed and waiting for the reboot, then after the boot complete, or error 44.
"""

from __future__ import annotations

import asyncio
from typing import Any

from updated.agent.host import HostFacts
from updated.agent.memory import Memory
from updated.common.log import get_logger
from updated.common.web import make_proxy
from updated.config import ServerSettings
from updated.errors import ErrorCode, LocalError, UpdateError
from updated.omaha.client import OmahaClient, make_http
from updated.omaha.protocol import App, Event, NoUpdate, Offer, Request, Response, decide

log = get_logger("talk")

FLATCAR_APP = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
DOWNLOAD_STARTED = {"type": 13, "result": 1}
DOWNLOAD_FINISHED = {"type": 14, "result": 1}


def installed_event(product: str) -> dict[str, Any]:
    """Return "applied, waiting for the reboot": Nebraska takes 3/1 of any app but Flatcar's for already complete."""
    is_flatcar = product.strip("{}").lower() == FLATCAR_APP
    return {"type": 3, "result": 1} if is_flatcar else {"type": 800, "result": 1}


def complete_event(previous: str) -> dict[str, Any]:
    """Return "runs the new version after the reboot"."""
    return {"type": 3, "result": 2, "previousversion": previous}


def error_event(code: int) -> dict[str, Any]:
    """Return "failed with this code"."""
    return {"type": 3, "result": 0, "errorcode": code}


def deferred_event() -> dict[str, Any]:
    """Return "left alone for now, for its payload failed here": update_engine's result for an update deferred."""
    return {"type": 3, "result": 9, "errorcode": int(ErrorCode.DEFERRED_FOR_BACKOFF)}


class Talk:
    """Speaks to one server on behalf of one host."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._one_at_a_time = asyncio.Lock()  # else two conversations would deliver the same events

    @property
    def enabled(self) -> bool:
        """Whether there is a server to ask; `disabled` is Flatcar's word for none."""
        return self.settings.url not in ("", "disabled")

    async def check(self, facts: HostFacts, memory: Memory, *, on_demand: bool) -> Offer | NoUpdate:
        """Ask for a release.

        Raises:
            LocalError: CONFIG; no server or no product is configured.
            RemoteError: the server can't be reached or its answer is no good.
            RefusedError: the server says no.
        """
        response = await self._exchange(facts, memory, updatecheck=True, on_demand=on_demand)
        if response is None:
            raise LocalError(ErrorCode.OMAHA_EMPTY_RESPONSE, "the server sent no answer", hint="Try again later.")
        return decide(response, appid=self.settings.product, current_version=facts.version)

    async def deliver(self, facts: HostFacts, memory: Memory, *, ping: bool = False) -> None:
        """Send what is in the outbox; what the server doesn't take stays there. Never raises for the server's sake."""
        if not self.enabled or not (memory.outbox or ping):
            return
        try:
            await self._exchange(facts, memory, updatecheck=False, on_demand=False)
        except UpdateError as error:
            log.warning("report-not-delivered", code=error.name, message=error.message, kept=len(memory.outbox))

    async def _exchange(
        self, facts: HostFacts, memory: Memory, *, updatecheck: bool, on_demand: bool
    ) -> Response | None:
        settings = self._require()
        async with self._one_at_a_time:
            events = tuple(memory.outbox)
            request = Request(
                app=self._app(facts, memory),
                installsource="ondemandupdate" if on_demand else "scheduler",
                ping=True,
                updatecheck=updatecheck,
                events=tuple(Event(**event) for event in events),
            )
            secs = settings.timeout_secs
            proxy = make_proxy(settings.proxy, settings.proxy_user, settings.proxy_password)
            async with make_http(ca_file=settings.ca_file, proxy=proxy, timeout_secs=secs) as http:
                response = await OmahaClient(settings.url, http=http, timeout_secs=secs).send(request)
            sent = {id(event) for event in events}  # by identity: others may have come in meanwhile
            memory.outbox[:] = [event for event in memory.outbox if id(event) not in sent]
            return response

    def _require(self) -> ServerSettings:
        hint = "Set it in updated.toml; `update-ctl config show` tells where each value comes from."
        if not self.enabled:
            raise LocalError(ErrorCode.CONFIG, "no update server is configured (server.url)", hint=hint)
        if not self.settings.product:
            raise LocalError(ErrorCode.CONFIG, "no product is configured (server.product)", hint=hint)
        return self.settings

    def _app(self, facts: HostFacts, memory: Memory) -> App:
        return App(
            appid=self.settings.product,
            version=facts.version,
            track=self.settings.channel,
            bootid="{" + facts.boot_id + "}",
            machineid=facts.machine_id,
            oem=facts.oem,
            oemversion=facts.oem_version,
            alephversion=memory.aleph_version,
            machinealias=self.settings.machine_alias,
            board=self.settings.board,
        )
