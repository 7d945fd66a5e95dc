"""A server in front of update-server: changes what the answer says of backoff, and may have lost the payloads."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import httpx

SAID = b'DisablePayloadBackoff="true"'


class Front:
    """Passes everything on to `server`, and counts what is fetched."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.disable_backoff = False
        self.lost = True  # every GET is answered with 404
        self.fetched: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer._pass_on(self, "POST", body)

            def do_GET(self) -> None:
                outer.fetched.append(self.path)
                if outer.lost:
                    self.send_error(404)
                else:
                    outer._pass_on(self, "GET", b"")

            def log_message(self, *_: object) -> None:
                pass  # the test looks at `fetched`

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _pass_on(self, request: BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        headers = {name: request.headers[name] for name in ("Host", "Range", "Content-Type") if name in request.headers}
        answer = httpx.request(method, self.server + request.path, content=body, headers=headers, trust_env=False)
        content = answer.content
        if method == "POST" and not self.disable_backoff:
            content = content.replace(SAID, SAID.replace(b"true", b"false"))
        request.send_response(answer.status_code)
        for name in ("Content-Type", "Content-Range"):
            if name in answer.headers:
                request.send_header(name, answer.headers[name])
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
