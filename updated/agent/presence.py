"""The agent's place on the bus: taken as soon as there is a bus, and again whenever it comes back.

The agent's own work needs none. A release whose D-Bus is broken must still be judged, and an install goes on while
D-Bus is started again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from updated.agent.bus import serve
from updated.agent.loop import Agent
from updated.common.bus import Bus, BusError, connect
from updated.common.clock import Clock
from updated.common.log import get_logger

RETRY_SECS = 2.0
log = get_logger("bus")


async def stay_on_bus(agent: Agent, address: str | None, clock: Clock, looked: Callable[[], None]) -> None:
    """Serve the agent on the bus until cancelled, over as many connections as it takes.

    Args:
        agent: whom to offer.
        address: of the bus; None for the system bus.
        clock: waits between two tries.
        looked: called, maybe more than once, when the agent is on the bus and when a try to get there has failed.

    Raises:
        LocalError: BUSY; another agent has the names, or the bus's policy forbids them.
    """
    reachable = True
    while True:
        try:
            bus = await connect(address, with_descriptors=True)
        except BusError as error:
            if reachable:  # else it was told
                log.warning("bus-unreachable", error=str(error), hint="The agent goes on without it; start dbus.")
            reachable = False
            looked()
        else:
            reachable = True
            await _serve_until_lost(agent, bus, looked)
            log.warning("bus-lost", hint="The agent goes on, and comes back to the bus once it is there again.")
        await clock.sleep(RETRY_SECS)


async def _serve_until_lost(agent: Agent, bus: Bus, looked: Callable[[], None]) -> None:
    lost = asyncio.ensure_future(bus.wait_closed())
    serving = asyncio.ensure_future(serve(agent, bus))
    try:
        # a connection that breaks while a name is asked for leaves the library waiting for an answer
        await asyncio.wait({serving, lost}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            looked()
            await lost
    finally:
        if serving.done() and not serving.cancelled() and serving.exception() is None:
            agent.unlisten(serving.result())
        serving.cancel()
        lost.cancel()
        await bus.close()
