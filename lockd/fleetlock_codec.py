"""The FleetLock protocol as values (pure): what a host asks, what a lock manager answers, who a host is.

Two POST requests below a base URL, `v1/pre-reboot` (take a slot, or find that it is ours) and `v1/steady-state` (give
it back, if it is ours), with the header `fleet-lock-protocol: true` and a body `{"client_params": {"id", "group"}}`.
200 alone is a yes. A no is 4xx or 5xx with `{"kind", "value"}`: a word of a small set, and a sentence. (Zincati
`docs/development/fleetlock/protocol.md`.) What real lock managers do differently is in `read_refusal`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import Any

from updated.common.urls import check_http_url, has_user

HEADER = "fleet-lock-protocol"
PRE_REBOOT = "v1/pre-reboot"
STEADY_STATE = "v1/steady-state"
REQUEST_LIMIT = 4096  # bytes
ANSWER_LIMIT = 64 * 1024  # bytes
TEXT_LIMIT = 300  # characters of a refusal that are shown
GROUP = re.compile(r"[a-zA-Z0-9.-]{1,64}")  # the protocol's letters; the length is ours
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # the protocol says "not empty"; the letters and the length are a ticket's
MACHINE_ID = re.compile(r"[0-9a-f]{32}")
ZINCATI = bytes.fromhex("de35106b6ec24688b63afddaa156679b")  # Zincati's application id
REFUSED_FOR_NOW = ("failed_lock", "lock_held")  # what airlock and Typhoon's fleetlock call a full semaphore


@dataclass(frozen=True, slots=True)
class Params:
    """Who asks, for which group."""

    machine_id: str
    group: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a lock manager says instead of yes."""

    status: int
    kind: str
    value: str

    @property
    def text(self) -> str:
        """Return it as one line for people."""
        return f"{self.value} ({self.kind}, HTTP {self.status})"


class RequestError(ValueError):
    """A request isn't one of the protocol; `kind` is the word for it."""

    def __init__(self, kind: str, value: str) -> None:
        super().__init__(value)
        self.kind = kind


def zincati_id(machine_id: str) -> str:
    """Return the id under which Zincati asks on the host with this machine id, as `sd_id128_get_machine_app_specific`.

    It is the first half of HMAC-SHA-256 over the application's id, keyed with the machine id, marked as a random UUID
    (RFC 9562 version 4), so that the machine id itself isn't told to the lock manager.

    Raises:
        ValueError: it isn't 32 hexadecimal digits.
    """
    if not MACHINE_ID.fullmatch(machine_id):
        raise ValueError(f"{machine_id!r} isn't 32 lower-case hexadecimal digits, as /etc/machine-id has")
    made = bytearray(hmac.digest(bytes.fromhex(machine_id), ZINCATI, hashlib.sha256)[:16])
    made[6] = made[6] & 0x0F | 0x40
    made[8] = made[8] & 0x3F | 0x80
    return made.hex()


def check_base_url(url: str) -> str:
    """Return a base URL that paths can be put behind.

    Raises:
        ValueError: it isn't one, or Zincati would understand another by it: it takes a last segment without a slash
            for a file, and leaves it out.
    """
    if has_user(url):
        raise ValueError("a user and a password don't belong into the URL: token_file is for that")
    parts = check_http_url(url)
    if parts.path and not url.endswith("/"):
        raise ValueError(f"the path of {url!r} must end with a slash")
    return url if parts.path else f"{url}/"


# ---- requests


def encode_request(params: Params) -> bytes:
    """Write the body of a request."""
    return json.dumps({"client_params": {"id": params.machine_id, "group": params.group}}).encode()


def decode_request(body: bytes) -> Params:
    """Read the body of a request; keys that the protocol doesn't know are passed over.

    Raises:
        RequestError: it isn't one.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("invalid_body", "the body is not JSON") from error
    params = document.get("client_params") if isinstance(document, dict) else None
    if not isinstance(params, dict):
        raise RequestError("invalid_body", "the body has no object client_params")
    return Params(_text(params, "id", ID), _text(params, "group", GROUP))


def _text(params: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise RequestError(f"invalid_client_{name}", f"client_params.{name} doesn't match {pattern.pattern}")
    return value


# ---- answers


def encode_refusal(kind: str, value: str) -> bytes:
    """Write the body of a refusal."""
    return json.dumps({"kind": kind, "value": value}).encode()


def read_refusal(status: int, body: bytes) -> Refusal:
    """Read whatever came with a status that isn't 200.

    Lock managers label JSON as text, put a proxy's page in its place, or send nothing; nothing of that is an error,
    for a refusal it is in any case. Control characters are taken out: the text goes to terminals and logs.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and isinstance(document.get("kind"), str):
        return Refusal(status, _printable(document["kind"]), _printable(str(document.get("value", ""))))
    return Refusal(status, f"http_{status}", _printable(body.decode(errors="replace")) or "no reason given")


def holds_nothing(refusal: Refusal) -> bool:
    """Tell whether a no to `steady-state` means that there is nothing to give back.

    Typhoon's fleetlock has one slot, and answers 423 `lock_held` to a host that gives back while another one holds.
    """
    return refusal.status == 423 and refusal.kind == "lock_held"  # noqa: PLR2004 - Locked


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:TEXT_LIMIT].strip()
