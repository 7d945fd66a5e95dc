"""The delay lock around a change of the boot loader's data, on a real bus, with a stand-in that answers as logind."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from dbus_next import Message, MessageType
from dbus_next.aio.message_bus import MessageBus

from tests.support.dbus import private_bus
from tests.support.disks import Bits, make_disk
from updated.agent.guarded_boot import GuardedBoot
from updated.common.bus_line import close_socket
from updated.common.inhibit import Inhibitor
from updated.slots.boot.gptprio import GptPrio
from updated.slots.disk import FileDisk


class Logind:
    """Owns logind's name; each lock is the write end of a pipe, so that the read end shows when it is let go."""

    def __init__(self, raw: MessageBus) -> None:
        self._raw = raw
        self.asked: list[list[str]] = []
        self.locks: list[int] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._raw.add_message_handler(self._answer)

    def _answer(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL or message.member != "Inhibit":
            return False
        self.asked.append(list(message.body))
        self._sending.add(asyncio.ensure_future(self._give_lock(message)))
        return True

    async def _give_lock(self, message: Message) -> None:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        self.locks.append(read_end)
        await self._raw.send(Message.new_method_return(message, "h", [0], unix_fds=[write_end]))
        os.close(write_end)  # the other side has its own

    def held(self) -> list[bool]:
        """Tell of each lock that was given whether somebody has it still."""
        return [not select.select([lock], [], [], 0)[0] for lock in self.locks]

    async def let_go(self) -> None:
        """Wait until nobody has any lock."""
        async with asyncio.timeout(30):
            while any(self.held()):
                await asyncio.sleep(0.02)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with private_bus(tmp_path / "bus") as address:
        yield address


@pytest.fixture
async def logind(address: str) -> AsyncIterator[Logind]:
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    made = Logind(bus)
    await bus.request_name("org.freedesktop.login1")
    yield made
    bus.disconnect()
    await bus.wait_for_disconnect()
    close_socket(bus)
    for lock in made.locks:
        os.close(lock)


async def test_each_change_of_the_slots_holds_a_lock_and_lets_it_go(
    address: str, logind: Logind, tmp_path: Path
) -> None:
    """Un-marking, arming, giving up and confirming each hold a lock of their own while they write, and let it go."""
    disk = make_disk(tmp_path / "disk", 64 * 1024, bits={"USR-A": Bits(1, 0, True), "USR-B": Bits(2, 1, True)})
    held: list[list[bool]] = []

    def opened(writable: bool) -> FileDisk:
        if writable:
            held.append(logind.held())
        return FileDisk(disk, writable=writable)

    a, b = GptPrio(disk, booted_partuuids=()).slots()
    for uuid, change in ((a.partuuid, "unmark"), (a.partuuid, "arm"), (b.partuuid, "give_up"), (b.partuuid, "confirm")):
        inner = GptPrio(disk, booted_partuuids=(uuid,), open_disk=opened)
        boot = GuardedBoot(inner, Inhibitor(address, "updated"))
        arguments = (3,) if change == "arm" else ()
        await asyncio.to_thread(getattr(boot, change), b, *arguments)
        await logind.let_go()
    assert [asked[0:2] + asked[3:] for asked in logind.asked] == [["shutdown", "updated", "delay"]] * 4
    assert all("slot B" in asked[2] for asked in logind.asked)
    assert [each[-1] for each in held] == [True] * 4
    assert [each.count(True) for each in held] == [1] * 4


async def test_without_logind_the_change_is_made_all_the_same(address: str, tmp_path: Path) -> None:
    """Neither a bus without logind nor no bus at all keeps a slot from being armed."""
    disk = make_disk(tmp_path / "disk", 64 * 1024)
    a, b = GptPrio(disk, booted_partuuids=()).slots()
    for bus in (address, f"unix:path={tmp_path}/none"):
        boot = GuardedBoot(GptPrio(disk, booted_partuuids=(a.partuuid,)), Inhibitor(bus, "updated"))
        await asyncio.to_thread(boot.arm, b, 3)
        assert boot.slots()[1].tries == 3
        await asyncio.to_thread(boot.unmark, b)
        assert not boot.slots()[1].bootable
