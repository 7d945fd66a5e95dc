"""A tap on the way from a server: bytes pass until so many have, and then wait until it is opened further."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

PIECE = 16 * 1024


class Tap:
    """Relays TCP from a free port of loopback to `target`; a context manager.

    Attributes:
        passed: bytes that went from the server to clients so far.
        target: the port of loopback that connections go on to.
    """

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.passed = 0
        self._limit: int | None = None
        self._closed = False
        self._turned = threading.Condition()
        self._waiting = 0
        self._pumps = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turned:
            self._closed = True
            self._turned.notify_all()
        for sock in list(self._sockets):
            with suppress(OSError):  # not connected any more
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in list(self._threads):
            thread.join()

    def hold_after(self, more: int) -> None:
        """Let `more` bytes pass from now on, and then none."""
        with self._turned:
            self._limit = self.passed + more
            self._turned.notify_all()

    def open(self) -> None:
        """Let everything pass."""
        with self._turned:
            self._limit = None
            self._turned.notify_all()

    @property
    def busy(self) -> bool:
        """Whether a client is connected."""
        with self._turned:
            return self._pumps > 0

    @property
    def holds(self) -> bool:
        """Whether bytes wait because the limit is reached."""
        with self._turned:
            return self._waiting > 0

    def _spawn(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [client, server]
                self._spawn(self._pump, client, server, False)
                self._spawn(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        self._count(1)
        with suppress(OSError):  # one side is gone
            while data := source.recv(PIECE):
                if counted and not self._may_pass(len(data)):
                    break
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._turned:
            self._pumps += change

    def _may_pass(self, size: int) -> bool:
        with self._turned:
            self._waiting += 1
            try:
                self._turned.wait_for(lambda: self._closed or self._limit is None or self.passed < self._limit)
            finally:
                self._waiting -= 1
            self.passed += size
            return not self._closed
