"""A FleetLock client over HTTP: asks a lock manager for a slot, and gives it back. Only HTTP 200 is a yes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx

from lockd import fleetlock_codec as codec
from lockd.errors import ErrorCode, LocalError, RefusedError, RemoteError, Retry
from updated.common.log import get_logger
from updated.common.web import WebBounds, WebError, ask, open_client, tls_context

logger = get_logger("fleetlock")

HINT = "Until the lock manager says yes, this host doesn't reboot; it asks again by itself."


@dataclass(frozen=True, slots=True)
class FleetLockOptions:
    """Where the lock manager is, and how to get in."""

    base_url: str  # as `check_base_url` returns it
    params: codec.Params
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    token: str = ""
    request_timeout_secs: float = 30.0


class FleetLockClient:
    """Speaks for one host; made by `open_fleetlock`, closed by `close`."""

    def __init__(self, options: FleetLockOptions, http: httpx.AsyncClient) -> None:
        self._options = options
        self._http = http
        self._body = codec.encode_request(options.params)

    async def lock(self) -> None:
        """Take a slot, or find that this host has one.

        Raises:
            RefusedError: FLEETLOCK_REFUSED; the lock manager says no.
            RemoteError: FLEETLOCK_UNREACHABLE; nobody answers, or somebody who isn't a lock manager.
        """
        refusal = await self._post(codec.PRE_REBOOT)
        if refusal is not None:
            raise self._refused(refusal)

    async def unlock(self) -> None:
        """Give the slot back; that there is none is fine.

        Raises:
            RefusedError: FLEETLOCK_REFUSED; the lock manager says no.
            RemoteError: FLEETLOCK_UNREACHABLE; nobody answers, or somebody who isn't a lock manager.
        """
        refusal = await self._post(codec.STEADY_STATE)
        if refusal is None:
            return
        if not codec.holds_nothing(refusal):
            raise self._refused(refusal)
        logger.debug("nothing-to-give-back", answer=refusal.text)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _post(self, path: str) -> codec.Refusal | None:
        url = self._options.base_url + path
        bounds = WebBounds(self._options.request_timeout_secs, codec.ANSWER_LIMIT)
        try:
            answer = await ask(self._http, "POST", url, bounds, content=self._body, beginning_only=True)
        except WebError as error:
            raise self._unreachable(f"doesn't answer: {error}") from error
        return None if answer.status == httpx.codes.OK else codec.read_refusal(answer.status, answer.body)

    def _refused(self, refusal: codec.Refusal) -> RefusedError | RemoteError:
        if refusal.status < httpx.codes.BAD_REQUEST:
            return self._unreachable(f"answers HTTP {refusal.status}, which is neither yes nor no: is base_url right?")
        hint = HINT
        if refusal.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            hint = "Check token_file, cert_file and key_file of [fleetlock] in lockd.toml."
        return RefusedError(
            ErrorCode.FLEETLOCK_REFUSED, f"the lock manager at {self._options.base_url} says no: {refusal.text}",
            hint=hint, retry=Retry.LATER,
        )  # fmt: skip

    def _unreachable(self, what: str) -> RemoteError:
        return RemoteError(
            ErrorCode.FLEETLOCK_UNREACHABLE, f"the lock manager at {self._options.base_url} {what}",
            hint=HINT, retry=Retry.LATER,
        )  # fmt: skip


def open_fleetlock(options: FleetLockOptions) -> FleetLockClient:
    """Make a client; nothing is sent yet.

    Raises:
        LocalError: CONFIG; a certificate or key can't be loaded.
    """
    try:
        context = tls_context(options.ca_file, options.cert_file, options.key_file)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(
            ErrorCode.CONFIG, f"the TLS files of [fleetlock] can't be loaded: {error}",
            hint="Check ca_file, cert_file and key_file in lockd.toml, and who may read them.",
        ) from error  # fmt: skip
    headers = {codec.HEADER: "true", "Content-Type": "application/json"}
    if options.token:
        headers["Authorization"] = f"Bearer {options.token}"
    return FleetLockClient(options, open_client(context, timeout_secs=options.request_timeout_secs, headers=headers))
