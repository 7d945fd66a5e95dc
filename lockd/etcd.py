"""A client of etcd's v3 JSON gateway over HTTP: several endpoints, TLS, user and password, bounded answers.

Every write that goes through here is a transaction on revisions, so that asking the next endpoint after a lost
answer can't do it twice.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lockd import etcd_codec as codec
from lockd.errors import ErrorCode, LocalError, RefusedError, RemoteError, Retry
from lockd.tickets import printable
from updated.common.log import get_logger
from updated.common.web import WebBounds, WebError, WebSizeError, ask, open_client, open_lines, tls_context

logger = get_logger("etcd")

API_PREFIXES = ("/v3", "/v3beta", "/v3alpha")  # etcd 3.4 and later, 3.3, 3.2
LINE_LIMIT = 1024 * 1024  # bytes of one line of a watch
OLD_TOKEN = b"revision of auth store is old"  # what a JWT is told, with 400, once etcd's users have changed
NO_CHANGE_HINT = "Until etcd answers, this host doesn't reboot. `etcdctl endpoint status` shows how the members are."
CN_TRAP = (
    "etcd's gateway refuses client certificates that have a common name while authentication is on: issue one whose "
    "subject has an O but no CN, and set username and password_file."
)


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """Where etcd is and how to get in."""

    endpoints: tuple[str, ...]
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str = ""
    password: str = ""
    request_timeout_secs: float = 5.0


class _EndpointError(Exception):
    """This endpoint can't serve; another may."""


class EtcdClient:
    """Transactions, leases and watches; made by `open_etcd`, closed by `close`."""

    def __init__(self, options: EtcdOptions, http: httpx.AsyncClient) -> None:
        self._options = options
        self._http = http
        self._endpoints = list(options.endpoints)  # the one that answered last comes first
        self._prefix = API_PREFIXES[0]
        self._token = ""
        self.requests = 0  # how many were sent, for benchmarks and status

    async def txn(
        self, compares: Sequence[codec.Json], operations: Sequence[codec.Json], otherwise: Sequence[codec.Json] = ()
    ) -> codec.TxnAnswer:
        """Run a transaction.

        Raises:
            RemoteError: no endpoint serves, or the answer makes no sense.
            RefusedError: etcd doesn't let this user do it.
        """
        body = await self._post("/kv/txn", codec.txn(compares, operations, otherwise))
        try:
            return codec.parse_txn(body, operations, otherwise)
        except codec.AnswerError as error:
            raise _nonsense(error) from error

    async def read(self, operations: Sequence[codec.Json]) -> codec.TxnAnswer:
        """Run read operations in one transaction; there is an answer for each.

        Raises:
            RemoteError: no endpoint serves, or the answer makes no sense.
            RefusedError: etcd doesn't let this user do it.
        """
        answer = await self.txn([], operations)
        if not answer.succeeded:
            raise _nonsense(codec.AnswerError("a transaction without conditions didn't succeed"))
        return answer

    async def grant_lease(self, ttl_secs: int) -> int:
        """Make a lease and return its id.

        Raises:
            RemoteError: no endpoint serves, or the answer makes no sense.
            RefusedError: etcd doesn't let this user do it.
        """
        body = await self._post("/lease/grant", {"TTL": str(ttl_secs), "ID": "0"})
        try:
            lease = codec.integer(codec.parse_object(body), "ID")
        except codec.AnswerError as error:
            raise _nonsense(error) from error
        if lease == 0:
            raise _nonsense(codec.AnswerError("the lease has no id"))
        return lease

    async def keep_lease(self, lease: int) -> bool:
        """Renew a lease; False when it is gone.

        Raises:
            RemoteError: no endpoint serves, or the answer makes no sense.
            RefusedError: etcd doesn't let this user do it.
        """
        body = await self._post("/lease/keepalive", {"ID": str(lease)})
        try:
            result = codec.parse_object(body).get("result")
            return isinstance(result, dict) and codec.integer(result, "TTL") > 0
        except codec.AnswerError as error:
            raise _nonsense(error) from error

    async def watch(self, request: codec.Json, timeout_secs: float) -> None:
        """Return when something that is watched changed, when the watch ended, or after the time.

        The three are one to the caller, who has to look again in any case. A watch that can't be opened waits the
        time out, so that the caller's look, which reports the fault, isn't repeated at once.
        """
        try:
            async with asyncio.timeout(timeout_secs):
                await self._watch(request, timeout_secs)
        except TimeoutError:
            return

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _watch(self, request: codec.Json, timeout_secs: float) -> None:
        for endpoint in tuple(self._endpoints):  # one that is down isn't waited for
            if await self._watch_at(endpoint, request, timeout_secs):
                return
        await asyncio.sleep(timeout_secs)  # the deadline in watch() ends it

    async def _watch_at(self, endpoint: str, request: codec.Json, timeout_secs: float) -> bool:
        """Return True when the caller should look now; False when this endpoint brought nothing."""
        self.requests += 1
        wait = httpx.Timeout(self._options.request_timeout_secs, read=timeout_secs + 1)
        url, headers = f"{endpoint}{self._prefix}/watch", self._headers()
        try:
            async with open_lines(self._http, url, json=request, headers=headers, wait=wait, line_bytes=LINE_LIMIT) as (
                status,
                lines,
            ):
                if status == httpx.codes.UNAUTHORIZED:
                    self._token = ""  # the look that comes next gets a new one
                return status == httpx.codes.OK and await _first_event(lines)
        except WebSizeError:
            return True  # too much to hold: that it is something is enough
        except (WebError, codec.AnswerError) as error:
            logger.debug("watch-broke", endpoint=endpoint, error=str(error))
            return False

    async def _post(self, path: str, request: codec.Json) -> bytes:
        failures = []
        for endpoint in tuple(self._endpoints):
            try:
                body = await self._ask(endpoint, path, request)
            except _EndpointError as error:
                failures.append(f"{endpoint}: {error}")
                continue
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)
            return body
        raise RemoteError(
            ErrorCode.ETCD_UNREACHABLE, f"no etcd endpoint serves: {'; '.join(failures)}",
            hint=NO_CHANGE_HINT, retry=Retry.LATER,
        )  # fmt: skip

    async def _ask(self, endpoint: str, path: str, request: codec.Json) -> bytes:
        """Ask one endpoint; find its API prefix and renew the token, once each, when it says so."""
        if self._options.username and not self._token:
            await self._authenticate(endpoint)
        renewed = False
        for prefix in (self._prefix, *(other for other in API_PREFIXES if other != self._prefix)):
            status, body = await self._send(endpoint + prefix + path, request)
            if _is_token_over(status, body) and self._options.username and not renewed:
                renewed = True
                await self._authenticate(endpoint)
                status, body = await self._send(endpoint + prefix + path, request)
            if status == httpx.codes.NOT_FOUND and not body.lstrip().startswith(b"{"):
                continue  # this etcd doesn't know the prefix
            self._prefix = prefix
            return _accepted(status, body)
        raise _EndpointError("it isn't etcd's v3 gateway")

    async def _authenticate(self, endpoint: str) -> None:
        self._token = ""
        request = {"name": self._options.username, "password": self._options.password}
        _status, body = 0, b""
        for prefix in (self._prefix, *API_PREFIXES):
            _status, body = await self._send(f"{endpoint}{prefix}/auth/authenticate", request)
            if _status != httpx.codes.NOT_FOUND:
                break
        try:
            token = codec.parse_object(_accepted(_status, body)).get("token")
        except codec.AnswerError as error:
            raise _nonsense(error) from error
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise _nonsense(codec.AnswerError("the token is no text"))
        self._token = token

    async def _send(self, url: str, request: codec.Json) -> tuple[int, bytes]:
        self.requests += 1
        bounds = WebBounds(self._options.request_timeout_secs * 2, codec.ANSWER_LIMIT)
        try:
            answer = await ask(self._http, "POST", url, bounds, json=request, headers=self._headers())
        except WebSizeError as error:
            raise _nonsense(codec.AnswerError(str(error))) from error
        except WebError as error:
            raise _EndpointError(str(error)) from error
        return answer.status, answer.body

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}  # the bare token: etcd knows no "Bearer"


def open_etcd(options: EtcdOptions) -> EtcdClient:
    """Make a client; nothing is sent yet.

    Raises:
        LocalError: a certificate or key can't be loaded.
    """
    try:
        context = tls_context(options.ca_file, options.cert_file, options.key_file)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(
            ErrorCode.CONFIG, f"the TLS files of [etcd] can't be loaded: {error}",
            hint="Check ca_file, cert_file and key_file in lockd.toml, and who may read them.",
        ) from error  # fmt: skip
    return EtcdClient(options, open_client(context, timeout_secs=options.request_timeout_secs))


async def _first_event(lines: AsyncIterator[bytes]) -> bool:
    """Read lines until one has events; False when the watch is over before."""
    async for line in lines:
        found = codec.has_events(line)
        if found or found is None:
            return bool(found)
    return False


def _is_token_over(status: int, body: bytes) -> bool:
    """Tell whether another token may be let in."""
    return status == httpx.codes.UNAUTHORIZED or (status == httpx.codes.BAD_REQUEST and OLD_TOKEN in body)


def _accepted(status: int, body: bytes) -> bytes:
    """Return the body of a good answer, or raise what the status means."""
    if status == httpx.codes.OK:
        return body
    text = _error_text(body)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise _EndpointError(f"HTTP {status}: {text}")
    if "CommonName" in text:
        raise RefusedError(ErrorCode.ETCD_AUTH, "etcd refuses the client certificate's common name", hint=CN_TRAP)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) or "user name" in text or "authentication" in text:
        raise RefusedError(
            ErrorCode.ETCD_AUTH, f"etcd doesn't let us in: {text}",
            hint="Check username and password_file in [etcd], and that the user's role covers the prefix.",
        )  # fmt: skip
    raise RemoteError(
        ErrorCode.ETCD_REFUSED, f"etcd answered HTTP {status}: {text}", hint=NO_CHANGE_HINT, retry=Retry.LATER
    )


def _error_text(body: bytes) -> str:
    try:
        found: Any = codec.parse_object(body).get("error")
    except codec.AnswerError:
        found = body.decode(errors="replace")
    return printable(str(found)[:200].strip())


def _nonsense(error: codec.AnswerError) -> RemoteError:
    return RemoteError(
        ErrorCode.ETCD_ANSWER, f"etcd's answer makes no sense: {error}", hint=NO_CHANGE_HINT, retry=Retry.LATER
    )
