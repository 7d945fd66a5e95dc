"""An update server that says what a test wants: an answer of its own making, any status, any file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.loopback_http import LoopbackHttp, QuietHandler
from tests.support.releases import PRODUCT
from updated.omaha.xml import escape


@dataclass(frozen=True)
class Said:
    """One answer over HTTP."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def offer(
    *,
    version: str = "9.9.9",
    codebases: tuple[str, ...] = ("http://127.0.0.1:1/",),
    name: str = "x.payload",
    size: object = 10,
    sha256: bytes = bytes(32),
    status: str = "ok",
    poll: str = "",
    failures: str = "1",
) -> bytes:
    """Return an answer that offers a release; backoff is switched off, so that each check tries it."""
    urls = "".join(f'<url codebase="{escape(url)}"/>' for url in codebases)
    digest = base64.b64encode(sha256).decode()
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><response protocol="3.0"><app appid="{PRODUCT}" status="ok">'
        f'<updatecheck status="{escape(status)}" PollInterval="{escape(poll)}"><urls>{urls}</urls>'
        f'<manifest version="{escape(version)}"><packages>'
        f'<package name="{escape(name)}" hash_sha256="{sha256.hex()}" size="{escape(str(size))}" required="true"/>'
        f'</packages><actions><action event="postinstall" sha256="{digest}" DisablePayloadBackoff="true"'
        f' MaxFailureCountPerUrl="{escape(failures)}"/></actions></manifest></updatecheck></app></response>'
    ).encode()


class OmahaDouble(LoopbackHttp):
    """`said` answers each check; `files` by path answer each GET, others are lost."""

    def __init__(self) -> None:
        self.said = Said()
        self.files: dict[str, Said] = {}
        self.fetched: list[tuple[str, str | None]] = []  # path and Range
        self.events: list[bytes] = []  # the bodies of all requests
        outer = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802  http.server looks it up by this name
                outer.events.append(self.rfile.read(int(self.headers["Content-Length"])))
                outer._send(self, outer.said)

            def do_GET(self) -> None:  # noqa: N802  http.server looks it up by this name
                outer.fetched.append((self.path, self.headers.get("Range")))
                outer._send(self, outer.files.get(self.path, Said(404)))

        super().__init__(Handler)

    def _send(self, request: BaseHTTPRequestHandler, said: Said) -> None:
        request.send_response(said.status)
        for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(said.body)
