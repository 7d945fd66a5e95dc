"""An HTTP server on loopback that lies as it is told: status, headers, lengths, cuts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.certificates import Pair
from tests.support.loopback_http import LoopbackHttp, QuietHandler


@dataclass
class Lie:
    """One answer: by default the truth about `body`, ranges included."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut_after: int | None = None  # bytes of the body after which the connection is closed
    ignore_range: bool = False
    first_range_only: bool = False  # of several, as some servers do


class LyingServer(LoopbackHttp):
    """Serves `body` at every path; `lie` says how for each request, by its number from 0."""

    def __init__(
        self, body: bytes, lie: Callable[[int], Lie] = lambda _number: Lie(), pair: Pair | None = None
    ) -> None:
        self.body, self.lie = body, lie
        self.requests: list[tuple[str, str | None]] = []  # path and Range of each
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802  http.server looks it up by this name
                outer._answer(self)

        super().__init__(Handler, pair)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        lie = self.lie(len(self.requests))
        asked = request.headers.get("Range")
        self.requests.append((request.path, asked))
        self.headers.append(dict(request.headers.items()))
        ranges = self._ranges(asked) if asked and not lie.ignore_range else [(0, len(self.body))]
        body, about = self._one(*ranges[0]) if len(ranges) == 1 or lie.first_range_only else self._several(ranges)
        body = body if lie.body is None else lie.body
        status = lie.status or (206 if asked and not lie.ignore_range else 200)
        headers = {"Content-Length": str(len(body)), **(about if status == 206 else {}), **lie.headers}
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body if lie.cut_after is None else body[: lie.cut_after])
        if lie.cut_after is not None:
            request.close_connection = True

    def _ranges(self, asked: str) -> list[tuple[int, int]]:
        pairs = [text.split("-") for text in asked.removeprefix("bytes=").split(",")]
        return [(int(begin), min(int(end) + 1, len(self.body)) if end else len(self.body)) for begin, end in pairs]

    def _one(self, begin: int, end: int) -> tuple[bytes, dict[str, str]]:
        return self.body[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(self.body)}"}

    def _several(self, ranges: list[tuple[int, int]]) -> tuple[bytes, dict[str, str]]:
        parts = []
        for begin, end in ranges:
            piece, about = self._one(begin, end)
            head = f"Content-Type: text/plain\r\nContent-Range: {about['Content-Range']}"
            parts.append(f"\r\n--limit\r\n{head}\r\n\r\n".encode() + piece)
        return b"".join(parts) + b"\r\n--limit--\r\n", {"Content-Type": "multipart/byteranges; boundary=limit"}
