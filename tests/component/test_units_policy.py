"""The D-Bus policy files on a real dbus-daemon, beneath the system bus's own policy: everyone reads, root changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_next.service import ServiceInterface

from lockd import bus as lockd_bus
from tests.support.system_bus import DENIED, NOBODY, send, system_bus
from updated.agent import bus as agent_bus
from updated.common.bus import Bus, BusError, connect

pytestmark = pytest.mark.skipif(
    os.getuid() != 0, reason="NOT TESTED HERE: who may call what on D-Bus; only root can call as other users"
)

READS = {
    agent_bus.ENGINE_INTERFACE: {"GetStatus"},
    agent_bus.INTERFACE: {"Status", "Explain", "History", "Slots", "SlotNotes"},
    lockd_bus.INTERFACE: {"Status", "Explain", "Group", "Machines", "Windows"},
}
INTERFACES: dict[str, tuple[str, type[ServiceInterface]]] = {
    agent_bus.ENGINE_INTERFACE: (agent_bus.ENGINE_NAME, agent_bus.EngineInterface),
    agent_bus.INTERFACE: (agent_bus.NAME, agent_bus.AgentInterface),
    lockd_bus.INTERFACE: (lockd_bus.NAME, lockd_bus.ManagerInterface),
}
REACHED = {
    "org.freedesktop.DBus.Error.UnknownMethod",
    "org.freedesktop.DBus.Error.UnknownObject",
    "org.freedesktop.DBus.Error.UnknownInterface",
}


def methods_of(kind: type[ServiceInterface]) -> set[str]:
    """Return the names of the methods that an interface of the product offers."""
    arguments = [None] * (3 if kind is lockd_bus.ManagerInterface else 1)
    made: Any = kind(*arguments)
    return {method.name for method in made.introspect().methods}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with system_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def owner(address: str) -> AsyncIterator[Bus]:
    """Root's connection that owns every name of the product and knows no method: what reaches it is answered so."""
    bus = await connect(address)
    for name, _ in INTERFACES.values():
        await bus.request_name(name)
    yield bus
    await bus.close()


async def reaches(address: str, uid: int, destination: str, call: str, *arguments: str) -> bool:
    """Tell whether a call gets past the bus."""
    error = await asyncio.to_thread(send, address, uid, destination, call, arguments)
    assert error in {DENIED, "", *REACHED}, error
    return error != DENIED


@pytest.mark.parametrize("interface", sorted(INTERFACES))
async def test_everyone_reads_and_root_alone_changes(owner: Bus, address: str, interface: str) -> None:
    """Of each method that an interface has, another user reaches those that only read, and root reaches all."""
    name, kind = INTERFACES[interface]
    methods = methods_of(kind)
    assert methods > READS[interface]
    reached = {member for member in methods if await reaches(address, NOBODY, name, f"{interface}.{member}")}
    assert reached == READS[interface]
    for member in methods:
        assert await reaches(address, 0, name, f"{interface}.{member}"), member


@pytest.mark.parametrize("interface", sorted(INTERFACES))
async def test_standard_interfaces_are_for_reading(owner: Bus, address: str, interface: str) -> None:
    """Another user may introspect and get properties, but not set one."""
    name, _ = INTERFACES[interface]
    question = (f"string:{interface}", "string:X")
    assert await reaches(address, NOBODY, name, "org.freedesktop.DBus.Introspectable.Introspect")
    assert await reaches(address, NOBODY, name, "org.freedesktop.DBus.Properties.GetAll", question[0])
    assert await reaches(address, NOBODY, name, "org.freedesktop.DBus.Properties.Get", *question)
    assert not await reaches(address, NOBODY, name, "org.freedesktop.DBus.Properties.Set", *question, "variant:int32:1")


async def test_one_name_is_no_way_round_the_other(owner: Bus, address: str) -> None:
    """A changing call is refused to another user by whichever of a process's names it is sent to."""
    for name, _ in INTERFACES.values():
        for call in (f"{agent_bus.ENGINE_INTERFACE}.AttemptUpdate", f"{agent_bus.INTERFACE}.Update"):
            assert not await reaches(address, NOBODY, name, call), (name, call)


def claim(address: str, uid: int, name: str) -> str:
    """Ask the bus for a name as a user; return the error's name."""
    call = "org.freedesktop.DBus.RequestName"
    return send(address, uid, "org.freedesktop.DBus", call, (f"string:{name}", "uint32:4"))


@pytest.mark.parametrize("interface", sorted(INTERFACES))
def test_nobody_else_owns_a_name(address: str, interface: str) -> None:
    """Another user can't own a name of the product and answer in its place; root can."""
    name, _ = INTERFACES[interface]
    assert claim(address, NOBODY, name) == DENIED
    assert claim(address, 0, name) == ""


async def test_root_owns_no_name_that_is_not_listed(address: str) -> None:
    """The policy is what lets root own the names: one that isn't in it is refused."""
    bus = await connect(address)
    with pytest.raises(BusError, match="doesn't let us own"):
        await bus.request_name("org.updated.Agent2")
    await bus.close()
