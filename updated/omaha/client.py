"""Carries requests to an Omaha server over HTTP; bounded, no redirects, no proxy but the configured one."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from updated.errors import ErrorCode, LocalError, RemoteError, Retry
from updated.omaha.messages import Request
from updated.omaha.request import encode_request
from updated.omaha.response import Response, parse_response
from updated.omaha.xml import MAX_BYTES

OK = 200


def make_http(
    *, ca_file: Path | None = None, proxy: str | None = None, timeout_secs: float = 30.0
) -> httpx.AsyncClient:
    """Return a client that follows no redirect and takes no proxy from the environment.

    Raises:
        LocalError: CONFIG; the CA file can't be used.
    """
    try:
        verify = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(
            ErrorCode.CONFIG, f"the CA file {ca_file} can't be used: {error}", hint="Correct server.ca_file."
        ) from error
    return httpx.AsyncClient(
        verify=verify, proxy=proxy, timeout=timeout_secs, trust_env=False, follow_redirects=False,
        headers={"Accept-Encoding": "identity", "Content-Type": "text/xml"},
    )  # fmt: skip


class OmahaClient:
    """One server."""

    def __init__(self, url: str, *, http: httpx.AsyncClient) -> None:
        self._url, self._http = url, http

    async def send(self, request: Request) -> Response:
        """Send a request and read the answer, whatever kind of request it is.

        Raises:
            RemoteError: OMAHA_UNREACHABLE, HTTP_STATUS, OMAHA_TOO_LARGE; what `parse_response` raises.
        """
        try:
            async with self._http.stream("POST", self._url, content=encode_request(request)) as answer:
                body = await self._read(answer)
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError(
                ErrorCode.OMAHA_UNREACHABLE,
                f"the update server {self._url} can't be reached: {str(error) or type(error).__name__}",
                hint="Look at server.url, the network, and the certificate; the agent asks again by itself.",
                retry=Retry.LATER,
            ) from error
        if status != OK and not body.lstrip().startswith(b"<"):
            raise RemoteError(
                ErrorCode.HTTP_STATUS,
                f"the update server {self._url} answers with status {status}",
                hint="Look at server.url and at the server's log; the agent asks again by itself.",
                retry=Retry.LATER,
            )
        return parse_response(body)

    async def _read(self, answer: httpx.Response) -> bytes:
        body = bytearray()
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > MAX_BYTES:
                raise RemoteError(
                    ErrorCode.OMAHA_TOO_LARGE,
                    f"the update server's answer is over {MAX_BYTES} bytes",
                    hint="Look at server.url; this is no Omaha server's answer.",
                    retry=Retry.LATER,
                )
        return bytes(body)
