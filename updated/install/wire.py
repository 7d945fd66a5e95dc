"""Downloads' sockets, read in pieces that are worth a call: half of what httpx costs by itself.

httpx leaves the wire to httpcore, which reads 64 KiB at once. The backend here is httpcore's own with larger reads;
pools, proxies, TLS and errors stay httpx's.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

READ_BYTES = 512 * 1024  # fewer calls, each of which would fetch the interpreter lock again from the decoders: measured

Options = Iterable[tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]]


class WideTransport(httpx.HTTPTransport):
    """What httpx sends requests through; asks nothing of the environment."""

    def __init__(self, context: ssl.SSLContext, proxy: str | None) -> None:
        """Take the context for https and a proxy's URL, if there is one."""
        super().__init__(verify=context, proxy=proxy, trust_env=False)
        # httpcore takes its backend as an argument, which httpx doesn't pass on
        self._pool._network_backend = _Backend()  # noqa: SLF001


class _Backend(httpcore.SyncBackend):
    """httpcore's backend, whose streams are ours."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(host, port, timeout, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    """httpcore's stream; a read takes more than it is asked for."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max(max_bytes, READ_BYTES), timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 (httpcore's signature)
        return self._stream.get_extra_info(info)
