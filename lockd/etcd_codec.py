"""etcd's v3 JSON gateway as values (pure): what is asked becomes JSON, what is answered is checked and typed.

Keys and values travel in base64, 64-bit numbers as strings, and whatever is zero, false or empty is left out of an
answer. (etcd 3.4 `api/etcdserverpb/rpc.proto`, and observed on a real server.)
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from updated.common.document import read_json
from updated.common.text import printable

INT64 = 2**63
ANSWER_LIMIT = 8 * 1024 * 1024  # bytes; 10,000 tickets are about 6 MiB

Json = dict[str, Any]


class AnswerError(ValueError):
    """An answer isn't what etcd sends."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as the store has it; `lease` 0 means that it doesn't expire."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class TxnAnswer:
    """What a transaction did; `ranges` and `counts` are the answers to its range operations, in order."""

    succeeded: bool
    revision: int  # of the store, when it answered
    ranges: tuple[tuple[KeyValue, ...], ...]
    counts: tuple[int, ...] = ()  # how many keys each range has, also beyond its limit and its filters


# ---- what is asked


def compare(key: str, target: Literal["CREATE", "MOD"], revision: int) -> Json:
    """Demand that the key was created, or last changed, at `revision`; 0 means that it isn't there."""
    field = "create_revision" if target == "CREATE" else "mod_revision"
    return {"key": _b64(key), "target": target, "result": "EQUAL", field: str(revision)}


def put(key: str, value: bytes, lease: int = 0) -> Json:
    """Write a key; with a lease it goes when the lease does, without one an earlier lease is taken off."""
    return {"request_put": {"key": _b64(key), "value": base64.b64encode(value).decode(), "lease": str(lease)}}


def delete(key: str) -> Json:
    """Remove a key."""
    return {"request_delete_range": {"key": _b64(key)}}


def read(key: str) -> Json:
    """Read one key, linearizable."""
    return {"request_range": {"key": _b64(key)}}


def read_prefix(prefix: str) -> Json:
    """Read all keys below a prefix in the order of their creation, linearizable."""
    order = {"sort_target": "CREATE", "sort_order": "ASCEND"}
    return {"request_range": {"key": _b64(prefix), "range_end": _b64(prefix_end(prefix)), **order}}


def read_first(prefix: str, limit: int) -> Json:
    """Read the names, without the values, of the keys below a prefix that were created first."""
    return _read_some(prefix, limit, "ASCEND")


def read_last(prefix: str, limit: int, *, before: int = 0) -> Json:
    """Read the names of the keys that were created last, of those created before revision `before`, unless 0."""
    found = _read_some(prefix, limit, "DESCEND")
    if before:
        found["request_range"]["max_create_revision"] = str(before - 1)
    return found


def _read_some(prefix: str, limit: int, order: str) -> Json:
    found = read_prefix(prefix)
    found["request_range"] |= {"limit": str(limit), "sort_order": order, "keys_only": True}
    return found


def txn(compares: Sequence[Json], operations: Sequence[Json], otherwise: Sequence[Json] = ()) -> Json:
    """Do all operations at once if all comparisons hold, else what is in `otherwise`."""
    return {"compare": list(compares), "success": list(operations), "failure": list(otherwise)}


def watch(key: str, *, range_end: str = "", start_revision: int, deletes_only: bool) -> Json:
    """Watch a key, or a range of keys, from a revision on."""
    request: Json = {"key": _b64(key), "start_revision": str(start_revision)}
    if range_end:
        request["range_end"] = _b64(range_end)
    if deletes_only:
        request["filters"] = ["NOPUT"]
    return {"create_request": request}


def prefix_end(prefix: str) -> str:
    """Return the first key after all keys that begin with `prefix` (which ends in an ASCII character below DEL)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# ---- what is answered


def parse_object(body: bytes) -> Json:
    """Read a body that must be one JSON object.

    Raises:
        AnswerError: it isn't.
    """
    try:
        found = read_json(body)
    except ValueError as error:
        why = printable(str(error), 80)
        raise AnswerError(f"the answer is not JSON that etcd sends ({why}): {body[:80]!r}") from error
    return _object(found, "the answer")


def parse_txn(body: bytes, operations: Sequence[Json], otherwise: Sequence[Json] = ()) -> TxnAnswer:
    """Read the answer to a transaction with these operations, for when its comparisons hold and for when they don't.

    Raises:
        AnswerError: anything in it isn't what etcd sends for them.
    """
    answer = parse_object(body)
    succeeded = answer.get("succeeded", False)
    if not isinstance(succeeded, bool):
        raise AnswerError(f"succeeded is {succeeded!r}")
    revision = integer(_object(answer.get("header"), "header"), "revision")
    if revision == 0:
        raise AnswerError("the answer has no revision")
    responses, done = answer.get("responses", []), operations if succeeded else otherwise
    if not isinstance(responses, list) or len(responses) != len(done):
        raise AnswerError("the answer has not one response for each operation")
    ranges = [
        _parse_range(_object(response, "response"), operation["request_range"], revision)
        for response, operation in zip(responses, done, strict=True)
        if "request_range" in operation
    ]
    return TxnAnswer(succeeded, revision, tuple(pairs for pairs, _ in ranges), tuple(count for _, count in ranges))


def integer(holder: Json, name: str) -> int:
    """Return a 64-bit number that etcd writes as text, 0 when it was left out.

    Raises:
        AnswerError: it is no number from 0 to 2**63 - 1.
    """
    value = holder.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:  # noqa: PLR2004
        value = int(value)
    if type(value) is not int or not 0 <= value < INT64:
        raise AnswerError(f"{name} is {str(value)[:80]!r}, no number")
    return value


def has_events(line: bytes) -> bool | None:
    """Tell whether a line of a watch brings events; None when the watch is over (cancelled, or an error).

    A watch that begins in a past that etcd has compacted may have missed events: it counts as one that brings some.

    Raises:
        AnswerError: it is no line of a watch.
    """
    found = parse_object(line)
    result = found.get("result")
    if not isinstance(result, dict):
        return None
    if result.get("canceled"):
        return True if integer(result, "compact_revision") else None
    return bool(result.get("events"))


def _parse_range(response: Json, asked: Json, revision: int) -> tuple[tuple[KeyValue, ...], int]:
    found = _object(response.get("response_range"), "response_range")
    items = found.get("kvs", [])
    if not isinstance(items, list):
        raise AnswerError("kvs is no list")
    pairs = tuple(_parse_pair(_object(item, "kvs"), asked, revision) for item in items)
    if len({pair.key for pair in pairs}) != len(pairs):
        raise AnswerError("a key comes twice")
    count, more = integer(found, "count"), found.get("more", False)
    if not isinstance(more, bool) or not _is_whole(len(pairs), count, asked, more=more):
        raise AnswerError(f"count is {found.get('count')!r} for {len(pairs)} keys")
    numbers = [pair.create_revision for pair in pairs]
    if "sort_order" in asked and numbers != sorted(numbers, reverse=asked["sort_order"] == "DESCEND"):
        raise AnswerError("the keys aren't in the order that was asked for")
    return pairs, count


def _is_whole(length: int, count: int, asked: Json, *, more: bool) -> bool:
    """Tell whether a range has as many keys as it must: fewer would make the queue look shorter."""
    limit = int(asked.get("limit", 0))
    if "max_create_revision" in asked:  # etcd counts what the filter left out too (kvstore, 3.4)
        return length <= min(limit, count) and (not more or length == limit)
    return length == (min(limit, count) if limit else count) and more == (count > length)


def _parse_pair(item: Json, asked: Json, revision: int) -> KeyValue:
    key = _decoded(item, "key")
    first = base64.b64decode(asked["key"])
    if not (first <= key < base64.b64decode(asked["range_end"]) if "range_end" in asked else key == first):
        raise AnswerError(f"nobody asked for the key {key[:80]!r}")
    pair = KeyValue(
        key=key.decode("utf-8", "backslashreplace"),
        value=_decoded(item, "value"),
        create_revision=integer(item, "create_revision"),
        mod_revision=integer(item, "mod_revision"),
        lease=integer(item, "lease"),
    )
    if not 0 < pair.create_revision <= pair.mod_revision <= revision:
        raise AnswerError(f"the revisions of {pair.key[:80]!r} can't be")
    if pair.create_revision > int(asked.get("max_create_revision", INT64)):
        raise AnswerError(f"{pair.key[:80]!r} is younger than what was asked for")
    return pair


def _decoded(item: Json, name: str) -> bytes:
    text = item.get(name, "")
    if not isinstance(text, str):
        raise AnswerError(f"{name} is no text")
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise AnswerError(f"{name} is no base64") from error


def _object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        raise AnswerError(f"{what} is no JSON object")
    return value
