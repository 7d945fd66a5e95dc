"""A server in front of update-server: changes what the answer says of backoff, and may have lost the payloads."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler

import httpx

from tests.support.loopback_http import LoopbackHttp, QuietHandler

SAID = b'DisablePayloadBackoff="true"'


class Front(LoopbackHttp):
    """Passes everything on to `server`, and counts what is fetched."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.disable_backoff = False
        self.lost = True  # every GET is answered with 404
        self.fetched: list[str] = []
        outer = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802  http.server looks it up by this name
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer._pass_on(self, "POST", body)

            def do_GET(self) -> None:  # noqa: N802  http.server looks it up by this name
                outer.fetched.append(self.path)
                if outer.lost:
                    self.send_error(404)
                else:
                    outer._pass_on(self, "GET", b"")

        super().__init__(Handler)

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
