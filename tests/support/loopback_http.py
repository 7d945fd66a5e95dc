"""An HTTP server on a free port of loopback, in a thread of the test, for as long as its context lasts."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.certificates import Pair


class QuietHandler(BaseHTTPRequestHandler):
    """Writes no log: the tests look at what the server has noted."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


def serve_folder(folder: Path) -> LoopbackHttp:
    """Return a plain web server of a folder's files, which knows neither ranges nor releases."""

    class FolderHandler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    return LoopbackHttp(FolderHandler)


class LoopbackHttp:
    """Answers with `handler`, each connection in a thread of its own; encrypted where it is given a certificate."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], pair: Pair | None = None) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._scheme = "https" if pair else "http"
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.cert, pair.key)
            # the handshake comes with the first read, in the connection's own thread
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"{self._scheme}://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
