"""A static HTTP server on loopback for every installer alike: ranges, several too; counts, and a bandwidth limit.

    python -m tests.bench.httpd DIRECTORY [BYTES_PER_SEC]

It prints its port. Files go out by sendfile, so it costs little of the machine that it shares with who is measured.
GET /=stats tells how many requests and body bytes there were since the last time, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

STATS = "/=stats"
BOUNDARY = "benchmark-parts-7d1f"
PIECE = 64 * 1024  # bytes sent at once under a limit
PATIENCE = 0.05  # seconds: how much of the limit may be used in one burst


class Line:
    """The line that all connections share."""

    def __init__(self, bytes_per_sec: int) -> None:
        self.bytes_per_sec = bytes_per_sec
        self._lock = threading.Lock()
        self._free_at = 0.0
        self.requests = self.sent = 0

    def note(self, count: int, requests: int = 0) -> None:
        """Count."""
        with self._lock:
            self.sent += count
            self.requests += requests

    def wait(self, count: int) -> None:
        """Take the time that `count` bytes take on the line."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - PATIENCE) + count / self.bytes_per_sec
            until = self._free_at
        if until > now:
            time.sleep(until - now)

    def take_stats(self) -> dict[str, int]:
        """Return the counts and begin anew."""
        with self._lock:
            stats = {"requests": self.requests, "bytes": self.sent}
            self.requests = self.sent = 0
        return stats


class Server(ThreadingHTTPServer):
    """Serves one directory."""

    daemon_threads = True

    def __init__(self, directory: Path, bytes_per_sec: int = 0) -> None:
        self.directory, self.line = directory, Line(bytes_per_sec)
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        if self.path == STATS:
            self._send(200, json.dumps(self.server.line.take_stats()).encode())
            return
        self.server.line.note(0, requests=1)
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked has enough
            self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def _answer(self, *, body: bool) -> None:
        path = self.server.directory / self.path.lstrip("/")
        if "/" in self.path.lstrip("/") or not path.is_file():
            self._send(404, b"not here\n")
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            spans = parse_ranges(self.headers.get("Range"), size)
            if len(spans) > 1:
                self._send_parts(file, spans, size, body=body)
                return
            begin, end = spans[0] if spans else (0, size)
            self.send_response(206 if spans else 200)
            if spans:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            self._end_head("application/octet-stream", end - begin)
            if body:
                self._send_file(file, begin, end)

    def _send_parts(self, file: BinaryIO, spans: Sequence[tuple[int, int]], size: int, *, body: bool) -> None:
        heads = [
            f"\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Range: bytes {begin}-{end - 1}/{size}\r\n\r\n".encode()
            for begin, end in spans
        ]
        tail = f"\r\n--{BOUNDARY}--\r\n".encode()
        self.send_response(206)
        length = sum(end - begin for begin, end in spans) + sum(map(len, heads)) + len(tail)
        self._end_head(f"multipart/byteranges; boundary={BOUNDARY}", length)
        if body:
            for head, (begin, end) in zip(heads, spans, strict=True):
                self._send_bytes(head)
                self._send_file(file, begin, end)
            self._send_bytes(tail)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self._end_head("text/plain", len(content))
        self.wfile.write(content)

    def _end_head(self, kind: str, length: int) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def _send_bytes(self, content: bytes) -> None:
        self.server.line.note(len(content))
        if self.server.line.bytes_per_sec:
            self.server.line.wait(len(content))
        self.connection.sendall(content)

    def _send_file(self, file: BinaryIO, begin: int, end: int) -> None:
        line = self.server.line
        step = PIECE if line.bytes_per_sec else end - begin
        while begin < end:
            if line.bytes_per_sec:
                line.wait(min(step, end - begin))
            sent = send_piece(self.connection, file, begin, min(step, end - begin))
            line.note(sent)
            begin += sent


def send_piece(connection: socket.socket, file: BinaryIO, begin: int, count: int) -> int:
    """Send a piece of a file; return how many bytes went."""
    sent = os.sendfile(connection.fileno(), file.fileno(), begin, count)
    if not sent:
        raise BrokenPipeError
    return sent


def parse_ranges(header: str | None, size: int) -> list[tuple[int, int]]:
    """Return the ranges that are asked for, ends excluded; none: the whole file, also when they make no sense."""
    match = re.fullmatch(r"bytes=([\d,\s-]+)", header or "")
    spans = []
    for text in match[1].split(",") if match else ():
        first, _, last = text.strip().partition("-")
        begin = int(first) if first else size - int(last)
        spans.append((begin, min(size, int(last) + 1) if first and last else size))
    return spans if all(0 <= begin < end for begin, end in spans) else []


def main() -> None:
    """Serve until killed."""
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with Server(Path(sys.argv[1]), rate) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
