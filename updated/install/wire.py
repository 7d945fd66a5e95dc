"""Downloads' sockets, read in pieces that are worth a call: half of what httpx costs by itself.

httpx leaves the wire to httpcore, which reads 64 KiB at once. The backend here is httpcore's own with larger reads;
pools, proxies, TLS and errors stay httpx's.

A time-out of httpx is one of silence: a server that sends a byte of a head now and then is waited for without end. So
whoever makes a request may give a watch along, which is asked before each wait and may end it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import httpx

READ_BYTES = 256 * 1024  # fewer calls, each of which fetches the interpreter lock again; more gains nothing (measured)

FOREVER = 86400.0  # seconds, where there is no time-out
WATCH = "watch"  # the name that a request's extensions have it by

Watch = Callable[[float], float]  # takes how long is to be waited, returns for how much of it until the next look
Options = Iterable[tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]]


class WideTransport(httpx.HTTPTransport):
    """What httpx sends requests through; asks nothing of the environment."""

    def __init__(self, context: ssl.SSLContext, proxy: httpx.Proxy | str | None) -> None:
        """Take the context for https and a proxy, if there is one."""
        super().__init__(verify=context, proxy=proxy, trust_env=False)
        # httpcore takes its backend as an argument, which httpx doesn't pass on
        self._backend = self._pool._network_backend = _Backend()  # noqa: SLF001

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its watch sees to all that is read until the next one."""
        self._backend.watch = request.extensions.get(WATCH, _no_watch)
        return super().handle_request(request)


def _no_watch(timeout: float) -> float:
    return timeout


class _Backend(httpcore.SyncBackend):
    """httpcore's backend, whose streams are ours."""

    def __init__(self) -> None:
        self.watch: Watch = _no_watch

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options | None = None,
    ) -> httpcore.NetworkStream:
        self.watch(FOREVER if timeout is None else timeout)
        return _Stream(super().connect_tcp(host, port, timeout, local_address, socket_options), self)


class _Stream(httpcore.NetworkStream):
    """httpcore's stream; a read takes more than it is asked for."""

    def __init__(self, stream: httpcore.NetworkStream, backend: _Backend) -> None:
        self._stream, self._backend = stream, backend  # a stream lives longer than a request and its watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = FOREVER if timeout is None else timeout
        while True:
            secs = self._backend.watch(left)
            try:
                return self._stream.read(max(max_bytes, READ_BYTES), secs)
            except httpcore.ReadTimeout:
                left -= secs
                if left <= 0:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._backend.watch(FOREVER if timeout is None else timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._backend)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 (httpcore's signature)
        return self._stream.get_extra_info(info)
