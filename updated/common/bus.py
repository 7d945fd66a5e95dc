"""A D-Bus connection: calls, signals from a checked sender, exported objects, and a close that leaves no socket.

The one module of both daemons that knows the D-Bus library (beside each daemon's own bus.py, which exports its
interface), so that another library could take its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dbus_next import BusType, DBusError, Message, MessageType
from dbus_next.constants import MessageFlag, NameFlag, RequestNameReply
from dbus_next.errors import AuthError, InvalidAddressError
from dbus_next.service import ServiceInterface

from updated.common.bus_frames import Head
from updated.common.bus_line import AnswerError, BusLine, close_all, close_socket
from updated.common.errors import OperatorError
from updated.common.text import printable

DAEMON = "org.freedesktop.DBus"
DAEMON_PATH = "/org/freedesktop/DBus"
CALL_SECS = 30.0  # a daemon that doesn't answer a call in this time counts as unreachable


class BusError(Exception):
    """The bus can't be reached, or a name is taken."""


@dataclass(frozen=True, slots=True)
class Told:
    """An error of a daemon of ours as its answer carries it, behind the sentence for other programs."""

    code: int
    name: str
    message: str
    hint: str
    refused: bool
    retry: str


TOLD = "susssbs"  # the signature of such an answer


class BusCallError(Exception):
    """The other side answered a call with an error."""

    def __init__(self, name: str, text: str, told: Told | None = None) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text
        self.told = told  # what one of our daemons says of it as data


class Bus:
    """One open connection; made by `connect`."""

    def __init__(self, raw: BusLine, *, auto_start: bool = True) -> None:
        self._raw = raw
        self._flags = MessageFlag.NONE if auto_start else MessageFlag.NO_AUTOSTART
        self._loop = asyncio.get_running_loop()
        self._owners: dict[str, str] = {}
        self._handlers: list[tuple[tuple[str, str, str, str], Callable[[list[Any]], None]]] = []
        self._kept: set[int] = set()  # calls whose answer has a descriptor for the caller
        self._lost: list[tuple[str, Callable[[], None]]] = []
        # one task of our own: to cancel whoever waits for the library's future would cancel that future for everyone
        self._gone = asyncio.ensure_future(raw.wait_for_disconnect())
        raw.listens = self._listens
        raw.add_message_handler(self._on_message)

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
    ) -> list[Any]:
        """Call a method and return its answer's values.

        An argument of the type `h` is an open file descriptor; the other side gets one of its own.

        Raises:
            BusCallError: the other side (or the bus: no such name, access denied) answered with an error.
            BusError: no answer in 30 seconds, or the connection is gone.
        """
        if self._gone.done():  # the library would leave the failed write behind as an exception that nobody takes
            raise BusError("the connection to the bus is closed")
        values, descriptors = _split_descriptors(signature, body)
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=values,
            unix_fds=descriptors,
            flags=self._flags,
        )
        return list((await self._answer(message)).body)

    async def call_for_descriptor(
        self, destination: str, path: str, interface: str, member: str, signature: str, body: Sequence[Any]
    ) -> int:
        """Call a method that answers with one open file descriptor, which is the caller's to close.

        Raises:
            BusCallError: the other side answered with an error.
            BusError: no answer in 30 seconds, the connection is gone, or no descriptor came.
        """
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            serial=self._raw.next_serial(),
        )
        self._kept.add(message.serial)
        try:
            reply = await self._answer(message)
        finally:
            self._kept.discard(message.serial)
        if len(reply.unix_fds) != 1:
            close_all(reply.unix_fds)
            raise BusError(f"{destination} answered {member} with {len(reply.unix_fds)} descriptors, not with one")
        return int(reply.unix_fds[0])

    async def _answer(self, message: Message) -> Message:
        try:
            async with asyncio.timeout(CALL_SECS):
                reply = await self._raw.call(message)
        except TimeoutError as error:
            self._raw._method_return_handlers.pop(message.serial, None)  # noqa: SLF001 - the library waits for ever
            raise BusError(f"{message.destination} did not answer {message.member} in {CALL_SECS:.0f} s") from error
        except (OSError, EOFError) as error:
            raise BusError(f"the connection to the bus broke: {error}") from error
        if reply is None:
            raise BusError("the connection to the bus is closed")
        if reply.message_type is MessageType.ERROR:
            told = Told(*reply.body[1:]) if reply.signature == TOLD else None
            raise BusCallError(reply.error_name or "", str(reply.body[0]) if reply.body else "", told)
        return reply

    async def subscribe(
        self,
        *,
        sender: str,
        path: str,
        interface: str,
        member: str,
        handler: Callable[[list[Any]], None],
        lost: Callable[[], None] | None = None,
    ) -> None:
        """Call `handler` with each such signal that the owner of the name `sender` sends.

        The owner is checked, for a match rule doesn't hold back a signal that a local user sends straight to us.
        `lost` is called when the name loses its owner.

        Raises:
            BusCallError: the bus refused the match rule.
        """
        await self._add_match(
            f"type='signal',sender='{DAEMON}',interface='{DAEMON}',member='NameOwnerChanged',arg0='{sender}'"
        )
        await self._add_match(
            f"type='signal',sender='{sender}',path='{path}',interface='{interface}',member='{member}'"
        )
        if lost is not None:
            self._lost.append((sender, lost))
        self._handlers.append(((sender, path, interface, member), handler))
        owner = await self.owner(sender)
        if owner:
            self._owners.setdefault(sender, owner)

    async def owner(self, name: str) -> str | None:
        """Return the unique name behind a well-known name, or None when nobody owns it."""
        try:
            (unique,) = await self.call(DAEMON, DAEMON_PATH, DAEMON, "GetNameOwner", "s", [name])
        except BusCallError as error:
            if error.name == "org.freedesktop.DBus.Error.NameHasNoOwner":
                return None
            raise
        return str(unique)

    def export(self, path: str, interface: ServiceInterface) -> None:
        """Offer an interface at an object path."""
        self._raw.export(path, interface)

    async def request_name(self, name: str) -> None:
        """Own a well-known name.

        Raises:
            BusError: another connection owns it, or the bus's policy forbids it.
        """
        try:
            reply = await self._raw.request_name(name, NameFlag.DO_NOT_QUEUE)
        except DBusError as error:
            raise BusError(f"the bus doesn't let us own {name}: {error.text}") from error
        if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
            raise BusError(f"another process owns {name}")

    async def wait_closed(self) -> None:
        """Return when the connection is gone, for whatever reason."""
        try:
            await asyncio.shield(self._gone)
        except (OSError, EOFError):
            return  # that it is gone is what was asked

    async def close(self) -> None:
        """Leave the bus and close its socket, which the library leaves open."""
        if self._raw.connected:
            self._raw.disconnect()
        await self.wait_closed()
        close_socket(self._raw)

    async def _add_match(self, rule: str) -> None:
        await self.call(DAEMON, DAEMON_PATH, DAEMON, "AddMatch", "s", [rule])

    def _on_message(self, message: Message) -> None:
        # closed after the method that they're for, which keeps copies of what it wants; an answer's are the caller's
        if message.unix_fds and message.reply_serial not in self._kept:
            self._loop.call_soon(close_all, list(message.unix_fds))
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "NameOwnerChanged" and message.sender == DAEMON:
            name, _old, new = message.body
            self._owners[name] = new
            for sender, lost in self._lost:
                if sender == name and not new:
                    lost()
            return
        for who, handler in self._handlers:
            if self._is_from(who, message):
                handler(message.body)

    def _listens(self, head: Head) -> bool:
        """Tell by its head whether a signal is one that somebody here waits for."""
        if head.sender == DAEMON:
            return head.member == "NameOwnerChanged"
        return any(self._is_from(who, head) for who, _ in self._handlers)

    def _is_from(self, who: tuple[str, str, str, str], signal: Head | Message) -> bool:
        sender, *shape = who
        return shape == [signal.path, signal.interface, signal.member] and self._owners.get(sender) == signal.sender


def _split_descriptors(signature: str, body: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """Put descriptors where the library wants them; only signatures of single characters may have any."""
    values, descriptors = list(body), list[int]()
    if "h" in signature:
        for index, (code, value) in enumerate(zip(signature, body, strict=True)):
            if code == "h":
                values[index] = len(descriptors)
                descriptors.append(value)
    return values, descriptors


async def connect(address: str | None, *, with_descriptors: bool = False, auto_start: bool = True) -> Bus:
    """Connect to the bus at `address`, or to the system bus.

    Without `auto_start` no call over this connection starts a daemon that doesn't run: whoever stopped it meant that.
    File descriptors are passed only over a connection that asks for it; the bus refuses them elsewhere.

    Raises:
        BusError: nobody answers there, or the bus refuses us.
    """
    where = address or "the system bus"
    try:
        raw = BusLine(bus_address=address, bus_type=BusType.SYSTEM, negotiate_unix_fd=with_descriptors)
        async with asyncio.timeout(CALL_SECS):
            await raw.connect()
    except (OSError, EOFError, TimeoutError, AuthError, InvalidAddressError) as error:
        raise BusError(f"{where} can't be reached: {error}") from error
    return Bus(raw, auto_start=auto_start)


def as_bus_error(error: OperatorError, prefix: str) -> AnswerError:
    """Turn an error into the D-Bus form `PREFIX.CamelName`: one sentence for any program, then all of it as data.

    The data are code (u), name, message and hint (s), whether policy or trust refused (b), what may be tried again (s).
    """
    name = "".join(word.capitalize() for word in error.code.name.split("_"))
    data = (int(error.code), error.name, error.message, error.hint, error.refused, error.retry.value)
    return AnswerError(f"{prefix}.{name}", printable(f"{error.message}. {error.hint}", 2000), TOLD, data)
