"""A server on loopback that sends whatever bytes a test wants, as slowly and for as long as it wants."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

HEAD_END = b"\r\n\r\n"


class RawServer:
    """Reads the head of each request, then sends the pieces that `answer` yields, each by itself, and hangs up.

    `ended` is set whenever a client hung up, or all pieces were sent.
    """

    def __init__(self, answer: Callable[[bytes], Iterable[bytes]]) -> None:
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._stopping, self.ended = threading.Event(), threading.Event()
        self.heads: list[bytes] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def pause(self, secs: float) -> bool:
        """Wait, less long if the test is over; True while it isn't."""
        return not self._stopping.wait(secs)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return  # closed: the test is over
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(0.2)
        with connection, contextlib.suppress(OSError):
            head = b""
            while HEAD_END not in head and not self._stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    head += piece
            self.heads.append(head)
            for piece in self._answer(head):
                self._send(connection, piece)
                if self._stopping.is_set():
                    break
        self.ended.set()

    def _send(self, connection: socket.socket, piece: bytes) -> None:
        view = memoryview(piece)
        while view and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                view = view[connection.send(view) :]
