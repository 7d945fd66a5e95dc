"""Answers made wrong: bytes flipped, cut, doubled, shuffled; JSON with parts missing, moved or of a wrong type."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import httpx

from tests.support.quick_http import QuickTransport

NONSENSE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**63,
    1e308,
    "",
    "0",
    "-1",
    "9" * 30,
    "AAAA",
    "!",
    [],
    [[]],
    {},
)


def flip(body: bytes, dice: random.Random) -> bytes:
    """Change one to four bytes."""
    changed = bytearray(body)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def cut(body: bytes, dice: random.Random) -> bytes:
    """Leave the end off."""
    return body[: dice.randrange(len(body))]


def splice(body: bytes, dice: random.Random) -> bytes:
    """Take a piece out, and put it or nothing in elsewhere."""
    start = dice.randrange(len(body))
    piece = body[start : start + dice.randint(1, 40)]
    rest = body[:start] + body[start + len(piece) :]
    there = dice.randrange(len(rest) + 1)
    return rest[:there] + piece * dice.randint(0, 2) + rest[there:]


def rebuild(body: bytes, dice: random.Random) -> bytes:
    """Leave out, double, exchange or replace some part of the document."""
    document = json.loads(body)
    holders = list(_holders(document))
    holder = dice.choice(holders)
    places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    place = dice.choice(places)
    act = dice.choice(("drop", "replace", "exchange"))
    if act == "drop":
        del holder[place]
    elif act == "replace":
        holder[place] = dice.choice(NONSENSE)
    else:
        other = dice.choice(places)
        holder[place], holder[other] = holder[other], holder[place]
    return json.dumps(document).encode()


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, cut, splice, rebuild)


def mutated(body: bytes, dice: random.Random) -> bytes:
    """Return the answer with one thing wrong, or two."""
    for mutation in dice.sample(MUTATIONS, dice.choice((1, 1, 2))):
        try:
            body = mutation(body, dice)
        except (ValueError, IndexError):
            continue  # another mutation left nothing that this one understands
    return body


class MutatingTransport(httpx.AsyncBaseTransport):
    """Sends every request for real, and spoils the answers; `count` says how many."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._real = QuickTransport()
        self.count = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._real.handle_async_request(request)
        body = await answer.aread()
        await answer.aclose()
        if self._dice.random() < 0.3:  # some are true, so that the steps after the first are reached too
            return httpx.Response(answer.status_code, stream=httpx.ByteStream(body), request=request)
        self.count += 1
        status = self._dice.choice((200,) * 20 + (204, 302, 400, 404, 500))
        return httpx.Response(status, stream=httpx.ByteStream(mutated(body, self._dice)), request=request)

    async def aclose(self) -> None:
        await self._real.aclose()


def _holders(value: Any) -> Any:
    if isinstance(value, dict | list) and value:
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _holders(part)
