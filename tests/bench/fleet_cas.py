"""The fleet with locksmith's way: one document of holders, read, compare-and-swap, a back-off that doubles.

As locksmith does it, on etcd's v3 interface: a failed attempt, whether the slots are taken or somebody else was faster,
waits 5 s, twice as long the next time, up to 5 minutes, without a spread; the same for giving back. Scaled 1:50.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from typing import Any

from lockd import etcd_codec as codec
from lockd.errors import LockdError
from lockd.etcd import EtcdClient
from tests.bench.fleet_tickets import SPREAD_SECS, Load, Tally, connect

KEY = "/locksmith/semaphore"
FIRST_SECS, LONGEST_SECS = 0.1, 6.0  # 5 s and 5 minutes, 1:50
Document = dict[str, Any]


class FullError(Exception):
    """Every slot is taken."""


async def run_cas(endpoint: str, load: Load, dice: random.Random) -> Tally:
    """Let everybody reboot once, or as many as the time allows."""
    tally = Tally()
    clients = [connect(endpoint) for _ in range(load.waiters)]
    await clients[0].txn([], [codec.put(KEY, json.dumps({"max": load.limit, "holders": []}).encode())])
    names = [f"{number:032x}" for number in range(load.waiters)]
    dice.shuffle(names)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(load.secs):
            pairs = enumerate(zip(clients, names, strict=True))
            await asyncio.gather(*(_reboot(client, name, place, load, tally) for place, (client, name) in pairs))
    tally.requests = sum(client.requests for client in clients)
    tally.compare_failures = sum(client.compare_failures for client in clients)
    await asyncio.gather(*(client.close() for client in clients))
    return tally


async def _reboot(client: EtcdClient, name: str, place: int, load: Load, tally: Tally) -> None:
    await asyncio.sleep(place * SPREAD_SECS)
    tally.join(name, place)
    await _patiently(client, lambda document: _hold(document, name))
    tally.go(name, load.limit)
    await asyncio.sleep(load.down_secs)
    await _patiently(client, lambda document: document["holders"].remove(name))


def _hold(document: Document, name: str) -> None:
    if len(document["holders"]) >= document["max"]:
        raise FullError
    document["holders"].append(name)


async def _patiently(client: EtcdClient, change: Callable[[Document], None]) -> None:
    pause = FIRST_SECS
    while not await _try(client, change):
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_SECS)


async def _try(client: EtcdClient, change: Callable[[Document], None]) -> bool:
    try:
        return await _swap(client, change)
    except LockdError:  # etcd was too busy
        return False


async def _swap(client: EtcdClient, change: Callable[[Document], None]) -> bool:
    """Read the document, change it, and write it back unless somebody else did meanwhile."""
    ((pair,),) = (await client.read([codec.read(KEY)])).ranges
    document = json.loads(pair.value)
    try:
        change(document)
    except FullError:
        return False
    compare = codec.compare(KEY, "MOD", pair.mod_revision)
    return (await client.txn([compare], [codec.put(KEY, json.dumps(document).encode())])).succeeded
