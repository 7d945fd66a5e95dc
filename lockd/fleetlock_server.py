"""A FleetLock lock manager over HTTP, in front of the tickets: hosts without lockd, or far from etcd, queue too.

A request becomes the steps that a lockd takes for itself: queue up, take the slot, write down that the host goes. The
ticket's boot id says that it was made here, and no other is touched. A host that waits is in the queue for as long as
it keeps asking. Never part of the daemon on the hosts: a web server has no place in what may reboot a machine.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from lockd import fleetlock_codec as codec
from lockd.errors import ErrorCode, LockdError, RefusedError, RemoteError, Retry
from lockd.semaphore import Identity, Semaphore
from lockd.status import ticket_stand
from lockd.store import Store
from lockd.tickets import Phase, Ticket
from updated.common.clock import Clock
from updated.common.log import get_logger

logger = get_logger("fleetlock")

MADE_HERE = "fleetlock"  # in the place of a boot id, which the protocol doesn't tell
ATTEMPTS = 4
BODY_SECS = 10.0  # for a body of at most 4 KiB
BAD_REQUEST, UNAUTHORIZED, TIMED_OUT, TOO_LARGE, LOCKED, BROKEN, UNAVAILABLE = 400, 401, 408, 413, 423, 500, 503


@dataclass(frozen=True, slots=True)
class Desk:
    """What the service works with."""

    stores: Mapping[str, Store]  # by group; no other group is served
    clock: Clock
    tokens: tuple[bytes, ...] = ()  # none: whoever may connect may ask
    expected_down_secs: float = 1800.0


class Queue:
    """The protocol's two operations on the tickets."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def lock(self, params: codec.Params) -> None:
        """Take a slot for a host, or find that it has one.

        Raises:
            RefusedError: SEMAPHORE_FULL; it waits, or its ticket isn't ours to use.
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        semaphore = self._semaphore(params)
        for _attempt in range(ATTEMPTS):
            group = await semaphore.look()
            _check_ours(group.of(params.machine_id))
            standing = await semaphore.acquire("", "", seen=group)
            if not standing.granted:
                if not standing.ticket.holds and not await semaphore.store.keep(standing.ticket):
                    continue  # it expired just now: queue up again
                raise _not_now(ticket_stand(standing).reason)
            told_before = standing.ticket.claim.phase is Phase.REBOOTING
            if told_before or await semaphore.commit(standing, "", ""):
                return
        raise _conflict()

    async def unlock(self, params: codec.Params) -> bool:
        """Take away the ticket that was made here for a host; False when there is none.

        Raises:
            LockdError: the store can't be reached or understood, or others kept changing it.
        """
        semaphore = self._semaphore(params)
        for _attempt in range(ATTEMPTS):
            ticket = (await semaphore.look()).of(params.machine_id)
            if ticket is None or ticket.claim.boot_id != MADE_HERE:
                return False
            if await semaphore.give_back(ticket):
                return True
        raise _conflict()

    def _semaphore(self, params: codec.Params) -> Semaphore:
        desk = self._desk
        identity = Identity(params.machine_id, MADE_HERE, host="by FleetLock")
        return Semaphore(desk.stores[params.group], desk.clock, identity, expected_down_secs=desk.expected_down_secs)


class _RequestRefusedError(Exception):
    """A request that isn't looked at any further."""

    def __init__(self, status: int, kind: str, value: str) -> None:
        super().__init__(value)
        self.status, self.kind, self.value = status, kind, value


class Service:
    """The handlers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._queue = Queue(desk)

    async def pre_reboot(self, request: Request) -> Response:
        """Answer a host that wants to go down."""
        params = await self._params(request)
        try:
            await self._queue.lock(params)
        except LockdError as error:
            return _refusal(error, params)
        logger.info("locked", id=params.machine_id, group=params.group)
        return Response()

    async def steady_state(self, request: Request) -> Response:
        """Answer a host that is up and well."""
        params = await self._params(request)
        try:
            released = await self._queue.unlock(params)
        except LockdError as error:
            return _refusal(error, params)
        if released:
            logger.info("unlocked", id=params.machine_id, group=params.group)
        return Response()

    async def healthy(self, _request: Request) -> Response:
        """Answer that the service runs."""
        return PlainTextResponse("ok")

    async def _params(self, request: Request) -> codec.Params:
        if not _let_in(request.headers.get("authorization", ""), self._desk.tokens):
            raise _RequestRefusedError(UNAUTHORIZED, "unauthorized", "no token that is valid here")
        if request.headers.get(codec.HEADER) != "true":
            raise _RequestRefusedError(BAD_REQUEST, "missing_header", f"the header {codec.HEADER}: true is missing")
        try:
            params = codec.decode_request(await _body(request))
        except codec.RequestError as error:
            raise _RequestRefusedError(BAD_REQUEST, error.kind, str(error)) from error
        if params.group not in self._desk.stores:
            raise _RequestRefusedError(BAD_REQUEST, "unknown_group", f"group {params.group} isn't served here")
        return params


def make_app(desk: Desk) -> Starlette:
    """Return the application."""
    service = Service(desk)
    return Starlette(
        routes=[
            Route(f"/{codec.PRE_REBOOT}", service.pre_reboot, methods=["POST"]),
            Route(f"/{codec.STEADY_STATE}", service.steady_state, methods=["POST"]),
            Route("/-/healthy", service.healthy, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _no_such_thing, _RequestRefusedError: _not_understood},
    )


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP, which also closes a connection on which no request begins for `timeout_keep_alive` seconds.

    uvicorn alone does so between two requests only, and not when half a head came: whoever opened enough of those
    would leave no connection for anybody else. A body that doesn't come has a deadline of its own, `BODY_SECS`. Nor
    does uvicorn end a connection whose client asks and doesn't read: here it has as long to take what was answered.
    """

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_head()

    def on_response_complete(self) -> None:
        """Wait for the next one."""
        self._expect_head()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give a client that doesn't read its time; then the connection goes, whatever is left of the answers."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has read."""
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def _expect_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.timeout_keep_alive, self._close_if_none_came)

    def _close_if_none_came(self) -> None:
        # before the first request there is no cycle; while one is answered, its end sets the time anew
        if getattr(self.cycle, "response_complete", True):
            self.transport.close()


# ---- what is said instead of yes


def _refusal(error: LockdError, params: codec.Params) -> Response:
    status, kind = LOCKED, "failed_lock"
    if isinstance(error, RemoteError) and error.code is not ErrorCode.ETCD_CONFLICT:
        status, kind = UNAVAILABLE, "store_unavailable"
    elif error.code in (ErrorCode.SETTINGS_DAMAGED, ErrorCode.ETCD_AUTH):
        status, kind = BROKEN, "store_refused"
    log = logger.info if status == LOCKED else logger.warning
    log("refused", id=params.machine_id, group=params.group, kind=kind, reason=error.message)
    told = error.message if status == LOCKED else "the tickets can't be read or changed now; the server's log says why"
    return _json(status, kind, told)


async def _not_understood(_request: Request, error: Exception) -> Response:
    if not isinstance(error, _RequestRefusedError):
        raise error
    return _json(error.status, error.kind, error.value)


async def _no_such_thing(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, f"http_{error.status_code}")
    response = _json(error.status_code, kind, str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _json(status: int, kind: str, value: str) -> Response:
    return Response(codec.encode_refusal(kind, value), status, media_type="application/json")


def _check_ours(ticket: Ticket | None) -> None:
    """Let nobody use, by naming its id, a ticket that a lockd or an operator made."""
    if ticket is not None and ticket.claim.boot_id != MADE_HERE:
        raise _not_now(f"the ticket of {ticket.machine_id} ({ticket.claim.phase.value}) wasn't made by FleetLock")


def _not_now(reason: str) -> RefusedError:
    return RefusedError(
        ErrorCode.SEMAPHORE_FULL, reason, hint="Ask again; `lockctl status` shows the queue.", retry=Retry.LATER
    )


def _conflict() -> RemoteError:
    return RemoteError(
        ErrorCode.ETCD_CONFLICT, "the ticket kept changing under us", hint="Ask again.", retry=Retry.LATER
    )


# ---- what comes in


def _let_in(header: str, tokens: Sequence[bytes]) -> bool:
    """Tell whether a header carries a token, as a bearer's, or as the password of anybody.

    Zincati can send no bearer token, but puts a user and a password of its base URL into each request.
    """
    if not tokens:
        return True
    scheme, _, given = header.partition(" ")
    offered = given.strip().encode()
    if scheme.lower() == "basic":
        try:
            offered = base64.b64decode(offered, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return any([hmac.compare_digest(offered, token) for token in tokens])  # noqa: C419 - all, whichever fits


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECS):
            async for piece in request.stream():
                body += piece
                if len(body) > codec.REQUEST_LIMIT:
                    raise _RequestRefusedError(
                        TOO_LARGE, "invalid_body", f"the body is over {codec.REQUEST_LIMIT} bytes"
                    )
    except TimeoutError as error:
        raise _RequestRefusedError(TIMED_OUT, "invalid_body", f"the body took over {BODY_SECS:.0f} s") from error
    except ClientDisconnect as error:
        raise _RequestRefusedError(BAD_REQUEST, "invalid_body", "the body was cut") from error
    return bytes(body)
