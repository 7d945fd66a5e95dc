"""A human's request on D-Bus: how long it is waited for, and what is said when the look takes longer."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from lockd import bus as bus_room
from lockd.config import Settings
from lockd.coordinator import Coordinator
from lockd.ctl.daemon import reboot
from lockd.errors import RefusedError
from lockd.gates import Gate, State
from lockd.inquiry import Inquiry
from lockd.status import View
from tests.support.dbus import private_bus
from updated.common.bus import connect

ARGUMENTS = argparse.Namespace(json=False)
WANTED = Gate("need", State.OPEN, "somebody asked")


class Slow:
    """Stands for a coordinator whose next look takes as long as a test wants."""

    def __init__(self) -> None:
        self.view = View("local", "g", "m", "b")
        self.looked = asyncio.Event()
        self.asked = 0

    async def ask(self) -> None:
        """Return after the look."""
        self.asked += 1
        await self.looked.wait()


@asynccontextmanager
async def serving(tmp_path: Path, coordinator: Slow) -> AsyncIterator[Settings]:
    with private_bus(tmp_path / "bus") as address:
        bus = await connect(address)
        try:
            await bus_room.serve(cast("Coordinator", coordinator), bus, cast("Inquiry", None), lambda: None)
            yield Settings(bus_address=address)
        finally:
            await bus.close()


@pytest.mark.parametrize("gates", [(), (Gate("need", State.CLOSED, "no reboot is wanted"),)])
async def test_look_that_takes_long_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gates: tuple[Gate, ...]
) -> None:
    """The answer comes in time, doesn't pass the gates of before off as an answer, and says that the request stands."""
    monkeypatch.setattr(bus_room, "LOOK_SECS", 0.05)
    slow = Slow()
    slow.view.gates = gates
    async with serving(tmp_path, slow) as settings:
        with pytest.raises(RefusedError, match="still looking") as caught:
            await reboot(settings.bus_address, ARGUMENTS)
    assert (slow.asked, "The request stands" in caught.value.hint) == (1, True)


async def test_host_that_is_on_its_way_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When all gates are open and the programs before the reboot take their time, nothing holds it back."""
    monkeypatch.setattr(bus_room, "LOOK_SECS", 0.05)
    slow = Slow()
    slow.view.gates = (WANTED,)
    async with serving(tmp_path, slow) as settings:
        assert await reboot(settings.bus_address, ARGUMENTS) == 0
    assert capsys.readouterr().out == "The reboot is on its way.\n"


async def test_look_that_is_over_says_what_holds_the_reboot_back(tmp_path: Path) -> None:
    """After the look the closed gate is named."""
    quick = Slow()
    quick.looked.set()
    quick.view.gates = (WANTED, Gate("blockers", State.CLOSED, "hold file", "it is removed"))
    async with serving(tmp_path, quick) as settings:
        with pytest.raises(RefusedError, match=r"hold file \(blockers\)"):
            await reboot(settings.bus_address, ARGUMENTS)


def test_answer_comes_before_the_caller_gives_up() -> None:
    """The bus waits 30 s; so the wait for the look ends well before."""
    assert bus_room.LOOK_SECS <= 20
