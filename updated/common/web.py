"""The rules of every HTTP request that a daemon makes: who is believed, how long, how much, and what is shown of it.

Update checks, etcd, FleetLock and Prometheus ask here; downloads, which come in pieces of their own pace, share the
rules. No request takes anything from the environment or follows a redirect by itself, all bodies are read as they
come over the line: a few hundred bytes can unpack to gigabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from updated.common.text import printable
from updated.common.urls import shown_url

IDENTITY = {"Accept-Encoding": "identity"}
# what a server may have packed a body with (RFC 9110, section 8.4.1, and IANA's list); another name says nothing
CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi"})
REDIRECTS = range(300, 400)
HEADER_SHOWN = 80  # characters
# what httpx lets through: its own, a TLS alert after the handshake, a host name that IDNA doesn't allow
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError)


class WebError(Exception):
    """A request came to nothing: nobody answers, not in time, or more than may come. Its text is fit to be shown."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class WebTimeoutError(WebError):
    """No whole answer came in time."""


class WebSizeError(WebError):
    """The answer is larger than what was asked for can be."""


@dataclass(frozen=True, slots=True)
class WebBounds:
    """What one exchange may take: seconds from the first look-up of a name to the last byte, and bytes of the body."""

    secs: float
    body_bytes: int


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What came: the status, the head, and the body (its beginning only, where the caller wanted no more)."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def tls_context(
    ca_file: Path | None = None, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """Return what servers are verified with: `ca_file` alone, or the system's authorities.

    Python 3.13 began to demand of certificates what many private authorities don't put in (VERIFY_X509_STRICT) and to
    let an intermediate in the file be the end of a chain. A host whose new release brings another Python must not lose
    its servers by that, so both are set here, to the laxer one, for all versions.

    Raises:
        OSError: a file can't be read, or holds no certificate or key (ssl.SSLError).
    """
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    if cert_file:
        context.load_cert_chain(cert_file, key_file)
    return context


def open_client(
    context: ssl.SSLContext,
    *,
    timeout_secs: float,
    headers: Mapping[str, str] | None = None,
    proxy: httpx.Proxy | str | None = None,
) -> httpx.AsyncClient:
    """Return a client for `ask` and `open_lines`; `timeout_secs` is how long the line may be silent."""
    return httpx.AsyncClient(
        verify=context, proxy=proxy, timeout=timeout_secs, trust_env=False, follow_redirects=False,
        headers={**IDENTITY, **(headers or {})},
    )  # fmt: skip


def make_proxy(url: str | None, user: str = "", password: str = "") -> httpx.Proxy | None:
    """Return the proxy of these settings, None where there is none; only it gets the user and the password."""
    return httpx.Proxy(url, auth=(user, password) if user else None) if url else None


async def ask(  # noqa: PLR0913 - the parts of a request
    http: httpx.AsyncClient,
    method: str,
    url: str,
    bounds: WebBounds,
    *,
    content: bytes | None = None,
    json: Any = None,  # noqa: ANN401 - whatever JSON can hold
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    beginning_only: bool = False,
) -> WebAnswer:
    """Make a request and read its answer to the end.

    Args:
        http: of `open_client`.
        method: GET or POST.
        url: as it goes over the line.
        bounds: of the whole exchange; dripping bytes, endless heads and interim answers (100 Continue) count too.
        content: the request's body.
        json: or what becomes one.
        params: the query.
        headers: further ones.
        beginning_only: whether the rest of a body that is too large is left, instead of refused.

    Raises:
        WebTimeoutError: no answer in time.
        WebError: none at all, or one in a coding that nobody asked for.
        WebSizeError: the body is over its bound.
    """
    # a deadline that nobody has to reach: httpx's own is for each wait, and bytes may drip
    try:
        async with (
            asyncio.timeout(bounds.secs),
            http.stream(method, url, content=content, json=json, params=params, headers=headers) as answer,
        ):
            check_coding(answer.headers)
            body = await _read(answer, bounds.body_bytes, beginning_only=beginning_only)
            return WebAnswer(answer.status_code, answer.headers, body)
    except TimeoutError as error:
        raise WebTimeoutError(f"no whole answer came in {bounds.secs:g} s") from error
    except _FAILURES as error:
        raise WebError(reason_of(error)) from error


async def _read(answer: httpx.Response, most: int, *, beginning_only: bool) -> bytes:
    length = answer.headers.get("Content-Length", "")
    if not beginning_only and length.isdecimal() and (len(length) > len(str(most)) or int(length) > most):
        raise WebSizeError(f"the answer is over {most} bytes")  # before any of it is taken
    body = bytearray()  # not a list of pieces: a server decides how small they are
    async for piece in answer.aiter_raw():
        body += piece
        if len(body) > most:
            if not beginning_only:
                raise WebSizeError(f"the answer is over {most} bytes")
            break
    return bytes(body[:most])


@contextlib.asynccontextmanager
async def open_lines(
    http: httpx.AsyncClient,
    url: str,
    *,
    json: Any,  # noqa: ANN401 - whatever JSON can hold
    headers: Mapping[str, str],
    wait: httpx.Timeout,
    line_bytes: int,
) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
    """Post a request whose answer goes on for as long as the caller listens; yield its status and its lines.

    The caller has a deadline of its own; `wait` is for how long the line may be silent.
    Lines come without their end, empty ones not at all; the last one may be cut.

    Raises:
        WebError: nobody answers, the line broke, or the coding is one that nobody asked for.
        WebSizeError: from the lines; one is over `line_bytes`.
    """
    try:
        async with http.stream("POST", url, json=json, headers=headers, timeout=wait) as answer:
            check_coding(answer.headers)
            yield answer.status_code, _lines(answer, line_bytes)
    except _FAILURES as error:
        raise WebError(reason_of(error)) from error


async def _lines(answer: httpx.Response, most: int) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for piece in answer.aiter_raw():
        *ended, last = piece.split(b"\n")
        for end in ended:  # only the piece is looked through: it may be a byte, and what is there a mebibyte
            line = bytes(rest) + end
            rest.clear()
            if line.strip():
                yield line
        rest += last
        if len(rest) > most:
            raise WebSizeError(f"a line is over {most} bytes")


def check_coding(headers: Mapping[str, str]) -> None:
    """Refuse an answer that is packed, for which nobody asked: unpacked it could have any size.

    A name that isn't one of a coding says nothing: the body is judged as it is.

    Raises:
        WebError: it is packed.
    """
    coding = coding_of(headers)
    if coding:
        raise WebError(f"the answer is packed ({coding}), though nobody asked for that")


def coding_of(headers: Mapping[str, str]) -> str:
    """Return what a head says that the body is packed with; nothing when it says identity, or what is no coding."""
    names = [name.strip() for name in headers.get("Content-Encoding", "").lower().split(",")]
    return next((name for name in names if name in CODINGS), "")


def reason_of(error: Exception) -> str:
    """Return why a request failed, in words fit to be shown."""
    return printable(str(error) or type(error).__name__, 300)


def told_by(status: int, headers: Mapping[str, str]) -> str:
    """Return what an answer's status and head say, as an error repeats them: where it sends us, when to come back."""
    text = f"{status}"
    if status in REDIRECTS and headers.get("Location"):
        text += f", a redirect to {shown_url(headers['Location'])}"
    if headers.get("Retry-After"):
        text += f" (Retry-After: {printable(headers['Retry-After'], HEADER_SHOWN)})"
    return text
