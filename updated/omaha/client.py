"""Carries requests to an Omaha server over HTTP; bounded, no redirects, no proxy but the configured one."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import httpx

from updated.common.urls import shown_url
from updated.common.web import (
    REDIRECTS,
    WebAnswer,
    WebBounds,
    WebError,
    WebSizeError,
    ask,
    open_client,
    tls_context,
    told_by,
)
from updated.errors import ErrorCode, LocalError, RemoteError, Retry
from updated.omaha.messages import Request
from updated.omaha.request import encode_request
from updated.omaha.response import Response, parse_response
from updated.omaha.xml import MAX_BYTES

OK = 200
TIMEOUT_SECS = 30.0  # of a whole exchange
OMAHA = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}\?>\s*)?<response[\s>/]")


def make_http(
    *, ca_file: Path | None = None, proxy: httpx.Proxy | str | None = None, timeout_secs: float = TIMEOUT_SECS
) -> httpx.AsyncClient:
    """Return a client that follows no redirect and takes no proxy from the environment.

    Raises:
        LocalError: CONFIG; the CA file can't be used.
    """
    try:
        context = tls_context(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(
            ErrorCode.CONFIG, f"the CA file {ca_file} can't be used: {error}", hint="Correct server.ca_file."
        ) from error
    return open_client(context, timeout_secs=timeout_secs, headers={"Content-Type": "text/xml"}, proxy=proxy)


class OmahaClient:
    """One server."""

    def __init__(self, url: str, *, http: httpx.AsyncClient, timeout_secs: float = TIMEOUT_SECS) -> None:
        """Take the server's URL, a client of `make_http`, and how long an exchange may take as a whole."""
        self._url, self._http = url, http
        self._bounds = WebBounds(timeout_secs, MAX_BYTES)

    async def send(self, request: Request) -> Response:
        """Send a request and read the answer, whatever kind of request it is.

        Raises:
            RemoteError: OMAHA_UNREACHABLE, HTTP_STATUS, HTTP_REDIRECT, OMAHA_TOO_LARGE; what `parse_response` raises.
        """
        try:
            answer = await ask(self._http, "POST", self._url, self._bounds, content=encode_request(request))
        except WebSizeError as error:
            raise RemoteError(
                ErrorCode.OMAHA_TOO_LARGE,
                f"the update server {shown_url(self._url)} answers with over {MAX_BYTES} bytes",
                hint="Look at server.url; this is no Omaha server's answer.",
                retry=Retry.LATER,
            ) from error
        except WebError as error:
            raise RemoteError(
                ErrorCode.OMAHA_UNREACHABLE,
                f"the update server {shown_url(self._url)} can't be reached: {error}",
                hint="Look at server.url, the network, and the certificate; the agent asks again by itself.",
                retry=Retry.LATER,
            ) from error
        self._check_status(answer)
        return parse_response(answer.body)

    def _check_status(self, answer: WebAnswer) -> None:
        """Take an Omaha answer under any status but a redirect's; a proxy's page counts as its status."""
        if answer.status == OK or (answer.status not in REDIRECTS and OMAHA.match(answer.body)):
            return
        said = f"the update server {shown_url(self._url)} answers with status {told_by(answer.status, answer.headers)}"
        if answer.status in REDIRECTS:
            raise RemoteError(
                ErrorCode.HTTP_REDIRECT, said, retry=Retry.LATER,
                hint="The agent follows no redirect of an update check: set server.url to where the server is.",
            )  # fmt: skip
        raise RemoteError(
            ErrorCode.HTTP_STATUS, said, retry=Retry.LATER, status=answer.status,
            hint="Look at server.url, at the server's log and at proxies on the way; the agent asks again by itself.",
        )  # fmt: skip
