"""Leaving a payload that keeps failing alone for a while, as update_engine does (values in, values out).

Its PayloadState counts attempts at one payload, which is known by everything that the answer says of it: another size,
hash, URL or flag is another payload. What a host's own trouble spoils is no attempt.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from updated.common.clock import rfc3339
from updated.errors import ErrorCode, LocalError, RemoteError, Retry, UpdateError
from updated.omaha.protocol import Offer
from updated.omaha.schedule import LONGEST_BACKOFF_SECS, backoff_secs

# of update_engine's codes those that take its PayloadState to the next URL, and of ours those for a malformed payload
PAYLOAD_FAULTS = frozenset(
    {
        ErrorCode.PAYLOAD_HASH_MISMATCH,
        ErrorCode.PAYLOAD_SIZE_MISMATCH,
        ErrorCode.PAYLOAD_VERIFICATION,
        ErrorCode.SIGNATURE_MISSING,
        ErrorCode.SIGNATURE_MISMATCH,
        ErrorCode.METADATA_MAGIC,
        ErrorCode.MANIFEST_PARSE,
        ErrorCode.METADATA_SIGNATURE_MISMATCH,
        ErrorCode.OPERATION_EXECUTION,
        ErrorCode.OPERATION_HASH_MISMATCH,
        ErrorCode.METADATA_SIZE,
        ErrorCode.OPERATION_HASH_MISSING,
        ErrorCode.METADATA_SIGNATURE_MISSING,
        ErrorCode.PAYLOAD_VERSION_UNKNOWN,
        ErrorCode.OPERATION_UNSUPPORTED,
        ErrorCode.LIMIT_EXCEEDED,
        ErrorCode.EXTENT_OUT_OF_RANGE,
        ErrorCode.EXTENT_EMPTY,
        ErrorCode.EXTENT_OVERLAP,
        ErrorCode.INDEX_INVALID,
    }
)


@dataclass(frozen=True, slots=True)
class Backoff:
    """A payload that failed here."""

    payload: str  # its identity
    version: str
    attempt: int  # how many have failed, from 1
    not_before: str  # RFC 3339, wall time: a host may be off for most of the wait

    def until(self, now: datetime) -> datetime | None:
        """Return when the payload may be tried again; None when that is now.

        A time further away than any wait is one of a clock that was wrong, and doesn't count.
        """
        moment = datetime.fromisoformat(self.not_before)
        return moment if now < moment <= now + timedelta(seconds=LONGEST_BACKOFF_SECS) else None

    @property
    def why(self) -> str:
        """What people read as the reason."""
        times = "once" if self.attempt == 1 else f"{self.attempt} times"
        return f"the payload of version {self.version} failed {times}; it is tried again at {self.not_before}"

    @property
    def ends(self) -> str:
        """What people read as the way out."""
        return (
            f"the first check after {self.not_before}, or another release; `update-ctl update` tries it now,"
            " `update-ctl reset` forgets that it failed"
        )


def identity(offer: Offer) -> str:
    """Return what an answer's payload is known by: update_engine's response signature, as a hash in hex."""
    digest = offer.sha256.hex() if offer.sha256 else ""
    flags = [offer.is_delta, offer.max_failures_per_url, offer.disable_backoff]
    said = json.dumps([list(offer.urls), offer.size, digest, *flags])
    return hashlib.sha256(said.encode()).hexdigest()


def lies_with_payload(error: UpdateError) -> bool:
    """Tell whether an install failed by its payload or the servers that have it, not by this host or its policy."""
    if isinstance(error, LocalError) or error.code is ErrorCode.CANCELLED:
        return False
    return isinstance(error, RemoteError) or error.retry is Retry.OTHER_SOURCE or error.code in PAYLOAD_FAULTS


def same_payload(known: Backoff | None, offer: Offer) -> Backoff | None:
    """Return what is known of the offered payload; None when nothing is, or when it was of another one."""
    return known if known is not None and known.payload == identity(offer) else None


def after_failure(known: Backoff | None, offer: Offer, now: datetime, fraction: float) -> Backoff | None:
    """Return what to remember once an offer's payload has failed again; None when its failures don't count.

    Args:
        known: what was remembered before, of this payload or another one.
        offer: a delta, or one whose answer disables the backoff, is tried at every poll.
        now: the wall clock.
        fraction: a random number in [0, 1).
    """
    if offer.disable_backoff or offer.is_delta:
        return None
    before = same_payload(known, offer)
    attempt = before.attempt + 1 if before else 1
    not_before = now + timedelta(seconds=backoff_secs(attempt, fraction))
    return Backoff(identity(offer), offer.version, attempt, rfc3339(not_before))


def from_document(raw: object) -> Backoff | None:
    """Read what the state file has; what can't be read costs at most one attempt too early, and is None."""
    if not isinstance(raw, dict):
        return None
    payload, version, attempt, not_before = (raw.get(key) for key in ("payload", "version", "attempt", "not_before"))
    if not (isinstance(payload, str) and isinstance(version, str) and isinstance(not_before, str)):
        return None
    if not isinstance(attempt, int) or attempt < 1 or not _is_moment(not_before):
        return None
    return Backoff(payload, version, attempt, not_before)


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
