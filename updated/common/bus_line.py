"""The connection under a `Bus`: dbus-next's, but read, bounded and answered here.

dbus-next 0.2.3 takes every message apart before anybody may look at it, keeps each signature that it ever saw, reads
for as long as something comes, and answers an unexpected exception with a traceback. A local user could end or stall a
daemon by each of the four. Here a body is taken apart only if its head says that it is an answer which is waited for, a
signal of a sender who is listened to, or a call of a method that is offered, with that method's own signature.
"""

from __future__ import annotations

import array
import asyncio
import inspect
import io
import os
import socket
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from dbus_next import DBusError, Message, MessageType
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.aio.message_bus import MessageBus
from dbus_next.service import ServiceInterface

from updated.common.bus_frames import CALL, ERROR, NO_REPLY, RETURN, SIGNAL, FrameError, Head, Splitter
from updated.common.bus_turns import Rate, Turns
from updated.common.log import get_logger

log = get_logger("bus")

READ_BYTES = 128 * 1024  # of one turn of the loop: some milliseconds of work, then it is others' turn
MOST_BYTES = {CALL: 64 * 1024, SIGNAL: 256 * 1024, RETURN: 2**20, ERROR: 64 * 1024}  # of a body, by the kind of message
MOST_DESCRIPTORS = 253  # that the kernel passes with one message (SCM_MAX_FD)
CALLS_PER_SEC, CALLS_BURST = 200.0, 400.0  # a status takes less than a millisecond
REFUSALS_PER_SEC, REFUSALS_BURST = 50.0, 100.0  # of calls beyond that; the others get no answer
LONG_CALLS, LONG_EACH = 1024, 4  # methods under way that take their time, of all callers and of each
MOST_UNSENT = 2000  # messages that the bus hasn't taken yet; more are dropped
REST_SECS = 0.05  # between two runs of the same long method: whoever it keeps waiting gets in between
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
FAILED = "org.freedesktop.DBus.Error.Failed"
UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"
STANDARD = {  # what every object offers, with its signature
    ("org.freedesktop.DBus.Peer", "Ping"): "",
    ("org.freedesktop.DBus.Introspectable", "Introspect"): "",
    ("org.freedesktop.DBus.Properties", "Get"): "ss",
    ("org.freedesktop.DBus.Properties", "GetAll"): "s",
}


Result = tuple[str, list[Any], list[int]]  # of a method: signature, values, descriptors
Outcome = tuple[Any, Exception | None]
Work = Callable[[], Awaitable[Any]]


class AnswerError(DBusError):  # type: ignore[misc]  # the library is Any to mypy
    """What a method answers instead of its result: an error's name, its sentence, and further values as data."""

    def __init__(self, name: str, text: str, signature: str = "s", values: tuple[Any, ...] = ()) -> None:
        super().__init__(name, text)
        self.signature, self.body = signature, [text, *values]


@dataclass(frozen=True, slots=True)
class Offered:
    """A method of an exported interface."""

    interface: ServiceInterface
    method: Any  # dbus-next's own description of it
    takes_long: bool  # whether it is a coroutine


class BusLine(MessageBus):  # type: ignore[misc]  # the library is Any to mypy
    """The library's connection, which would also leave its socket open when nobody listens at the address."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - the library's
        super().__init__(**options)
        self.listens: Callable[[Head], bool] = lambda _head: False  # to a signal
        self._splitter = Splitter(self._admits)
        self._descriptors: list[int] = []  # that came, of messages that haven't been seen yet
        self._turns: Turns[tuple[Head, bytes, list[int]]] = Turns()
        self._offered: dict[tuple[str, str, str], Offered] = {}  # by path, interface and member
        self._rate = Rate(CALLS_PER_SEC, CALLS_BURST, self._loop.time)
        self._refusals = Rate(REFUSALS_PER_SEC, REFUSALS_BURST, self._loop.time)
        self._answering: asyncio.TimerHandle | asyncio.Handle | None = None
        self._long: set[asyncio.Task[None]] = set()
        self._long_by: Counter[str] = Counter()  # by caller
        self._shared: dict[tuple[int, str], _Shared] = {}

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()
        except BaseException:
            close_socket(self)
            raise

    # ---- what comes

    def _message_reader(self) -> None:
        """Read once; the loop calls again while there is more, after everything else had its turn."""
        try:
            for head, data in self._splitter.feed(self._receive()):
                self._take(head, data, self._pop_descriptors(head))
        except (OSError, EOFError, FrameError) as error:
            self._finalize(error)

    def _receive(self) -> bytes:
        numbers = array.array("i")
        try:
            data, ancillary, *_ = self._sock.recvmsg(READ_BYTES, socket.CMSG_LEN(MOST_DESCRIPTORS * numbers.itemsize))
        except BlockingIOError:
            return b""
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
        self._descriptors.extend(numbers)
        if not data:
            raise EOFError("the bus closed the connection")
        return bytes(data)

    def _pop_descriptors(self, head: Head) -> list[int]:
        """Return the descriptors that a message brought: they come in the order of their messages."""
        if not self._descriptors:
            return []
        taken, self._descriptors = self._descriptors[: head.descriptors], self._descriptors[head.descriptors :]
        return taken

    def _admits(self, head: Head) -> bool:
        if head.body_bytes > MOST_BYTES.get(head.kind, -1):
            return False
        if head.kind == SIGNAL:
            return self.listens(head)
        if head.kind == CALL:
            return self._signature_of(head) == head.signature
        return head.reply_serial in self._method_return_handlers

    def _take(self, head: Head, data: bytes | None, descriptors: list[int]) -> None:
        """Hear what was waited for; let a call wait for its turn, still as it came."""
        if data is not None and head.kind != CALL:
            message = _unmarshal(head, data, descriptors)
            if message is not None:
                self._on_message(message)
            return
        if data is None:
            problem = (UNKNOWN, "no such method is offered with this signature")
        elif head.signature.count("h") != len(descriptors):
            problem = (UNKNOWN, "a method gets as many descriptors as its signature has")
        elif self._turns.put(head.sender, (head, data, descriptors)):
            self._answer_soon(0)
            return
        else:
            problem = (LIMITS, "too many calls at once; wait for an answer before the next one")
        close_all(descriptors)
        if head.kind == CALL:
            self._refuse(head, *problem)

    # ---- what is offered

    def _signature_of(self, head: Head) -> str | None:
        """Return what a method that is called takes; None where there is no such method."""
        offered = self._find(head)
        if offered is not None:
            return str(offered.method.in_signature)
        return STANDARD.get((head.interface, head.member))

    def _find(self, head: Head) -> Offered | None:
        return self._offered.get((head.path, head.interface, head.member))

    def export(self, path: str, interface: ServiceInterface) -> None:
        """Offer an interface at an object path; a call may leave the interface's name out."""
        super().export(path, interface)
        for method in ServiceInterface._get_methods(interface):  # noqa: SLF001 - there is no public way
            if not method.disabled:
                offered = Offered(interface, method, takes_long=inspect.iscoroutinefunction(method.fn))
                self._offered[path, interface.name, method.name] = offered
                self._offered.setdefault((path, "", method.name), offered)

    def _answer_soon(self, secs: float) -> None:
        if self._answering is None:
            self._answering = self._loop.call_later(secs, self._answer_next)

    def _answer_next(self) -> None:
        """Answer one call; the next one after whatever else the loop has to do, and no sooner than the rate allows."""
        self._answering = None
        if self._disconnected:
            return
        secs = self._rate.wait_secs()
        if secs:
            self._answer_soon(secs)
            return
        found = self._turns.take()
        if found is not None:
            head, data, descriptors = found
            message = _unmarshal(head, data, descriptors)
            if message is None:
                self._refuse(head, FAILED, "the message isn't what its head says")
            else:
                self._answer(head, message)
            self._answer_soon(0)

    def _answer(self, head: Head, message: Message) -> None:
        offered = self._find(head)
        if offered is None or not offered.takes_long:
            self._reply(head, lambda: self._result(head, message, offered))
            close_all(message.unix_fds)  # the method keeps copies of what it wants
        elif len(self._long) >= LONG_CALLS or self._long_by[head.sender] >= LONG_EACH:
            close_all(message.unix_fds)
            self._refuse(head, LIMITS, "too many calls are under way; wait for their answers")
        else:
            self._long_by[head.sender] += 1
            self._run_long(self._answer_later(head, message, offered))

    def _result(self, head: Head, message: Message, offered: Offered | None) -> Result:
        if offered is not None:
            return _packed(offered, offered.method.fn(offered.interface, *_arguments(message)))
        if head.member == "Introspect":
            return "s", [self._introspect_export_path(head.path).tostring()], []
        if head.member in ("Get", "GetAll") and head.path not in self._path_exports:
            raise AnswerError("org.freedesktop.DBus.Error.UnknownObject", f"there is no object {head.path}")
        if head.member == "GetAll":
            return "a{sv}", [{}], []
        if head.member == "Get":
            raise AnswerError("org.freedesktop.DBus.Error.UnknownProperty", "there are no properties here")
        return "", [], []

    async def _answer_later(self, head: Head, message: Message, offered: Offered) -> None:
        """Answer by a coroutine; one whose interface lists it as `shared` runs once for all who wait for it."""
        arguments = _arguments(message)

        def work() -> Awaitable[Any]:
            return offered.method.fn(offered.interface, *arguments)  # type: ignore[no-any-return]

        try:
            if offered.method.name in getattr(offered.interface, "shared", ()):
                key = id(offered.interface), str(offered.method.name)
                result, error = await self._shared.setdefault(key, _Shared()).run(work, self._run_long)
            else:
                result, error = await _outcome(work)
        finally:
            close_all(message.unix_fds)
            self._long_by[head.sender] -= 1
            self._long_by += Counter()  # forgets who has none

        def tell() -> Result:
            if error is not None:
                raise error
            return _packed(offered, result)

        self._reply(head, tell)

    def _run_long(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._long.add(task)
        task.add_done_callback(self._long.discard)

    # ---- what is sent

    def _reply(self, head: Head, work: Callable[[], Result]) -> None:
        """Send what `work` returns or, when it raises, an error without a word about our insides."""
        try:
            signature, body, descriptors = work()
        except AnswerError as error:
            self._send_error(head, error.type, error.signature, error.body)
        except DBusError as error:
            self._send_error(head, error.type, "s", [error.text])
        except Exception:  # noqa: BLE001 - whatever a method raises is no reason to end the connection
            log.error("method-failed", member=head.member, trace=traceback.format_exc())  # noqa: TRY400 - as a value
            self._send_error(head, FAILED, "s", ["an error inside; the daemon's log says more"])
        else:
            kind = MessageType.METHOD_RETURN
            self._send(head, Message(**_back(head, kind), signature=signature, body=body, unix_fds=descriptors))

    def _refuse(self, head: Head, name: str, text: str) -> None:
        """Answer a call that isn't looked at, unless there are too many of them."""
        if not head.flags & NO_REPLY and not self._refusals.wait_secs():
            self._send_error(head, name, "s", [text])

    def _send_error(self, head: Head, name: str, signature: str, body: Sequence[Any]) -> None:
        back = _back(head, MessageType.ERROR)
        self._send(head, Message(**back, error_name=name, signature=signature, body=list(body)))

    def _send(self, head: Head, reply: Message) -> None:
        if not head.flags & NO_REPLY and not self._disconnected and self._writer.messages.qsize() < MOST_UNSENT:
            self.send(reply)

    def _finalize(self, err: Exception | None = None) -> None:
        close_all(self._descriptors)
        self._descriptors = []
        while (found := self._turns.take()) is not None:
            close_all(found[2])
        for task in tuple(self._long):
            task.cancel()
        super()._finalize(err)


class _Shared:
    """A long method that many may call at once: calls that come while it runs all wait for the next run.

    So each gets an answer that was found out after it asked, and there is one run at a time, with a rest after it in
    which whoever wants to write what is read gets in.
    """

    def __init__(self) -> None:
        self._next: asyncio.Future[Outcome] | None = None
        self._running = False

    async def run(self, work: Work, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> Outcome:
        """Return what the next run comes to."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        waiting = self._next
        if not self._running:
            self._running = True
            spawn(self._go(work))
        return await asyncio.shield(waiting)

    async def _go(self, work: Work) -> None:
        try:
            while self._next is not None:
                waiting, self._next = self._next, None
                waiting.set_result(await _outcome(work))
                await asyncio.sleep(REST_SECS)
        finally:
            self._running = False


async def _outcome(work: Work) -> Outcome:
    try:
        return await work(), None
    except Exception as error:  # noqa: BLE001 - it is raised where the answer is made
        return None, error


def _back(head: Head, kind: MessageType) -> dict[str, Any]:
    return {"destination": head.sender, "message_type": kind, "reply_serial": head.serial}


def _arguments(message: Message) -> list[Any]:
    """Return a call's values, with descriptors in the place of their numbers."""
    return list(ServiceInterface._msg_body_to_args(message))  # noqa: SLF001 - there is no public way


def _packed(offered: Offered, result: Any) -> Result:  # noqa: ANN401 - of any method
    tree = offered.method.out_signature_tree
    body, descriptors = ServiceInterface._fn_result_to_body(result, tree)  # noqa: SLF001 - there is no public way
    return offered.method.out_signature, body, descriptors


def _unmarshal(head: Head, data: bytes, descriptors: list[int]) -> Message | None:
    """Take a whole message apart; None, and its descriptors closed, when it isn't what its head says."""
    try:
        message = Unmarshaller(io.BytesIO(data)).unmarshall()
    except Exception as error:  # noqa: BLE001 - the library raises whatever its parts do
        close_all(descriptors)
        log.debug("message-not-understood", sender=head.sender, error=repr(error))
        return None
    message.unix_fds = descriptors
    return message


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that came with messages."""
    for descriptor in descriptors:
        os.close(descriptor)


def close_socket(raw: MessageBus) -> None:
    """Close the socket and the stream on it, which would keep it open; the library offers no public way to either."""
    for name in ("_sock", "_stream"):
        if hasattr(raw, name):
            getattr(raw, name).close()
