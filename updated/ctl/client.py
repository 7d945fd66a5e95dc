"""The daemon as update-ctl sees it: JSON documents and a few requests over D-Bus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from updated.common.bus import Bus, BusCallError, BusError, Told, connect
from updated.errors import ErrorCode, LocalError, RefusedError, Retry, UpdateError

NAME, PATH, INTERFACE = "org.updated.Agent1", "/org/updated/Agent1", "org.updated.Agent1.Manager"
LOCKD = ("org.lockd.Lockd1", "/org/lockd/Lockd1", "org.lockd.Lockd1.Manager")
NOBODY = ("org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")


@dataclass(frozen=True, slots=True)
class Request:
    """What the daemon is asked to do: a method and its arguments."""

    member: str
    signature: str = ""
    body: tuple[object, ...] = ()


class Daemon:
    """A connection to the running agent."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def document(self, member: str) -> Any:  # noqa: ANN401 - a JSON document
        """Return what Status, Explain, History or Slots answers.

        Raises:
            LocalError: UNREACHABLE; no daemon answers.
            RefusedError: the bus's policy doesn't let this user ask.
        """
        try:
            (text,) = await self._bus.call(NAME, PATH, INTERFACE, member)
        except (BusError, BusCallError) as error:
            _translate(error)
        return json.loads(text)

    async def ask(self, request: Request) -> None:
        """Make a request.

        Raises:
            LocalError: UNREACHABLE; no daemon answers.
            RefusedError: the daemon is busy, or the user may not.
        """
        try:
            await self._bus.call(NAME, PATH, INTERFACE, request.member, request.signature, request.body)
        except (BusError, BusCallError) as error:
            _translate(error)

    async def changes(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the status document now and after every change.

        Raises:
            LocalError: UNREACHABLE; no daemon answers, or it has ended meanwhile.
        """
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        await self._bus.subscribe(
            sender=NAME,
            path=PATH,
            interface=INTERFACE,
            member="StatusChanged",
            handler=lambda body: queue.put_nowait(json.loads(body[0])),
            lost=lambda: queue.put_nowait(None),
        )
        yield await self.document("Status")
        while (status := await queue.get()) is not None:
            yield status
        raise LocalError(
            ErrorCode.UNREACHABLE,
            "the update agent has ended",
            hint="Look at `systemctl status updated`; ask again once it runs.",
            retry=Retry.LATER,
        )

    async def lockd_explain(self) -> list[dict[str, Any]] | None:
        """Return lockd's chain of gates; None when no lockd runs here or it doesn't let us ask."""
        try:
            (text,) = await self._bus.call(*LOCKD, "Explain")
        except (BusError, BusCallError):
            return None
        return list(json.loads(text))


@asynccontextmanager
async def open_daemon(address: str | None) -> AsyncIterator[Daemon]:
    """Connect to the bus at `address`, or to the system bus.

    Raises:
        LocalError: UNREACHABLE; there is no bus.
    """
    try:
        bus = await connect(address, with_descriptors=True, auto_start=False)
    except BusError as error:
        _translate(error)
    try:
        yield Daemon(bus)
    finally:
        await bus.close()


def _translate(error: BusError | BusCallError) -> NoReturn:
    if isinstance(error, BusError) or error.name in NOBODY:
        raise LocalError(
            ErrorCode.UNREACHABLE,
            "the update agent can't be reached" if isinstance(error, BusCallError) else str(error),
            hint="Is it running? `systemctl status updated`. In a container set UPDATED_BUS_ADDRESS.",
            retry=Retry.LATER,
        ) from error
    if error.name == "org.freedesktop.DBus.Error.AccessDenied":
        raise RefusedError(
            ErrorCode.BUSY, "this user may not ask the agent for that", hint="Run the command as root."
        ) from error
    if error.told is not None:
        raise _as_told(error.told) from error
    raise RefusedError(
        ErrorCode.BUSY, error.text, hint="`update-ctl explain` tells what is going on.", retry=Retry.LATER
    ) from error


def _as_told(told: Told) -> UpdateError:
    """Return a daemon's error as it was there; a code that only a newer daemon knows is an error all the same."""
    kind = RefusedError if told.refused else LocalError
    code = ErrorCode(told.code) if told.code in set(ErrorCode) else ErrorCode.ERROR
    retry = Retry(told.retry) if told.retry in {one.value for one in Retry} else Retry.NO
    return kind(code, told.message, hint=told.hint, retry=retry)
