"""HTTP/1.1 over asyncio's plain streams, as a transport of httpx: what a fleet of thousands in one process can afford.

For servers of loopback that were started by us. It does what such a server answers with, and refuses anything else: a
length or chunks, connections that are used again. Time limits are the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx

HEAD_LIMIT = 64 * 1024
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class BareTransport(httpx.AsyncBaseTransport):
    """One client's connections to any number of servers."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[Connection]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._exchange(request)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise httpx.ReadError(str(error) or type(error).__name__, request=request) from error

    async def aclose(self) -> None:
        for connections in self._idle.values():
            for _reader, writer in connections:
                writer.close()

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        server = request.url.host, request.url.port or 80
        idle = self._idle.setdefault(server, [])
        reader, writer = connection = idle.pop() if idle else await asyncio.open_connection(*server, limit=HEAD_LIMIT)
        try:
            writer.write(_head(request) + request.content)
            status, headers = _parse(await reader.readuntil(b"\r\n\r\n"))
        except BaseException:
            writer.close()
            raise
        return httpx.Response(status, headers=headers, stream=_Body(connection, idle, headers), request=request)


class _Body(httpx.AsyncByteStream):
    """A body as it comes; its connection is free for the next request once it was read to its end."""

    def __init__(self, connection: Connection, idle: list[Connection], headers: dict[str, str]) -> None:
        self._reader, self._writer = connection
        self._idle, self._ended = idle, False
        self._length = None if headers.get("transfer-encoding") == "chunked" else int(headers["content-length"])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._length is None:
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
            while await self._reader.readuntil(b"\r\n") != b"\r\n":
                pass  # trailers: etcd's gateway sends some behind its streams
        elif self._length:
            yield await self._reader.readexactly(self._length)
        self._ended = True

    async def aclose(self) -> None:
        if self._ended:
            self._idle.append((self._reader, self._writer))
        else:
            self._writer.close()


def _head(request: httpx.Request) -> bytes:
    lines = [f"{request.method} {request.url.raw_path.decode('ascii')} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join([*lines, b"", b""])


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs}
