"""How the coordinator rests between two looks: for a time, until something changes, or until its turn in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from lockd.errors import LockdError
from lockd.means import Means
from lockd.semaphore import Semaphore, Standing
from updated.common.clock import Clock
from updated.common.log import get_logger

logger = get_logger("rest")


async def rest_until(means: Means, wake: asyncio.Event, standing: Standing | None, secs: float) -> None:
    """Return after so many seconds (a third of the watchdog's time at most), at `wake`, or, in the queue, at our turn.

    A ticket that waits (`standing`) is kept alive meanwhile.
    """
    watchdog = means.notifier.watchdog_secs
    secs = min(secs, watchdog / 3) if watchdog else secs
    waiting: list[Coroutine[Any, Any, object]] = [wake.wait(), means.clock.sleep(secs)]
    if means.semaphore is not None and standing is not None and not standing.ticket.holds:
        waiting.append(_wait_turn(means.semaphore, standing, means.clock, secs))
    tasks = [asyncio.ensure_future(one) for one in waiting]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_turn(semaphore: Semaphore, standing: Standing, clock: Clock, secs: float) -> None:
    try:
        if await semaphore.store.keep(standing.ticket):
            limit = min(secs, semaphore.store.ttl_secs / 3)
            await semaphore.store.wait_turn(standing.group, standing.ticket, limit)
    except LockdError as error:
        logger.warning("waiting-failed", error=error.message)
        await clock.sleep(secs)
