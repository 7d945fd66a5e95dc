"""A forward proxy on loopback (RFC 9110, sections 3.7 and 9.3.6): passes requests on, tunnels what is encrypted."""

from __future__ import annotations

import base64
import socket
import threading

import httpx

from tests.support.loopback_http import LoopbackHttp, QuietHandler

HOP_BY_HOP = ("proxy-authorization", "proxy-connection", "connection", "keep-alive")
PASSED_BACK = ("content-type", "content-range", "content-length")
PIECE = 64 * 1024


class ForwardProxy(LoopbackHttp):
    """Passes on what is asked; with `account` (user:password), only for whom it knows."""

    def __init__(self, account: str = "") -> None:
        self.asked: list[str] = []  # method and target of each request
        self.heads: list[str] = []  # their headers, as far as it can read them
        self._wanted = "Basic " + base64.b64encode(account.encode()).decode() if account else None
        outer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802  http.server looks it up by this name
                if outer._admits(self):
                    pass_on(self)

            do_POST = do_GET  # noqa: N815  likewise

            def do_CONNECT(self) -> None:  # noqa: N802  likewise
                if outer._admits(self):
                    tunnel(self)

        super().__init__(Handler)

    def _admits(self, request: QuietHandler) -> bool:
        self.asked.append(f"{request.command} {request.path}")
        self.heads.append(str(request.headers))
        if self._wanted in (None, request.headers.get("Proxy-Authorization")):
            return True
        request.send_response(407)
        request.send_header("Proxy-Authenticate", "Basic")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return False


def pass_on(request: QuietHandler) -> None:
    """Ask in the client's place, and give it the answer."""
    body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    answer = httpx.request(request.command, request.path, content=body, headers=headers, trust_env=False)
    request.send_response(answer.status_code)
    for name, value in answer.headers.items():
        if name.lower() in PASSED_BACK:
            request.send_header(name, value)
    request.end_headers()
    request.wfile.write(answer.content)


def tunnel(request: QuietHandler) -> None:
    """Connect, and carry bytes both ways until both sides have ended."""
    host, port = request.path.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 30) as there:
        request.send_response(200)
        request.end_headers()
        back = threading.Thread(target=pump, args=(there, request.connection))
        back.start()
        pump(request.connection, there)
        back.join()
    request.close_connection = True


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes one way until the source ends."""
    try:
        while piece := source.recv(PIECE):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one side is gone; the other one sees it by itself
