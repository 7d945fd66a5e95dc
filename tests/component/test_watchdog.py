"""What feeds the watchdog while the agent works: progress that is told, or data that move; never mere time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from updated.agent.context import Context
from updated.agent.loop import MOVED_BYTES, Agent
from updated.agent.machine import State
from updated.common.notify import Notifier
from updated.common.own_io import bytes_moved
from updated.config import Settings


class StepClock:
    """Sleeps until the test lets it go on; says when somebody sleeps."""

    def __init__(self) -> None:
        self.asleep = asyncio.Event()
        self._go = asyncio.Event()

    async def sleep(self, _secs: float) -> None:
        self.asleep.set()
        await self._go.wait()
        self._go.clear()

    async def step(self) -> None:
        """Let the sleeper look once more, and wait until it sleeps again."""
        self.asleep.clear()
        self._go.set()
        await self.asleep.wait()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)
        yield server


def fed(systemd: socket.socket) -> int:
    """Return how often the watchdog was fed since the last look."""
    count = 0
    while True:
        try:
            count += systemd.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            return count


async def test_work_feeds_the_watchdog_and_a_hang_does_not(systemd: socket.socket, tmp_path: Path) -> None:
    """Told progress and data read in silence each feed it; nothing happening doesn't; rest always does."""
    clock = StepClock()
    means: Any = SimpleNamespace(settings=Settings(state_dir=tmp_path / "state"), clock=clock)
    agent = Agent(Context(means), Notifier(str(tmp_path / "notify"), 120.0))
    agent.view.state = State.DOWNLOADING
    (tmp_path / "data").write_bytes(bytes(2 * MOVED_BYTES))
    feeding = asyncio.ensure_future(agent._feed_watchdog())
    await clock.asleep.wait()
    fed(systemd)
    await clock.step()
    assert fed(systemd) == 0, "fed though nothing went on"
    agent.context.beat()
    await clock.step()
    assert fed(systemd) == 1
    await clock.step()
    assert fed(systemd) == 0
    await asyncio.to_thread((tmp_path / "data").read_bytes)  # as hashing a delta's source does
    await clock.step()
    assert fed(systemd) == 1
    agent.view.state = State.IDLE
    await clock.step()
    assert fed(systemd) == 1
    feeding.cancel()


async def test_silent_work_is_waited_for_with_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow write to the boot loader's data pulses while it is waited for, and one that hangs stops doing so."""
    monkeypatch.setattr("updated.agent.context.ALIVE_SECS", 0.01)
    monkeypatch.setattr("updated.agent.context.PATIENCE_SECS", 0.05)
    context = Context(SimpleNamespace(settings=Settings(state_dir=tmp_path)))  # type: ignore[arg-type]
    done = asyncio.Event()
    waiting = asyncio.ensure_future(context.patiently(done.wait()))
    while context.pulse < 5:
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    assert context.pulse == 5
    done.set()
    assert await waiting is True


def test_bytes_are_the_kernels(tmp_path: Path) -> None:
    """What this process reads counts, also past a kernel that counts nothing."""
    (tmp_path / "data").write_bytes(bytes(300_000))
    before = bytes_moved()
    (tmp_path / "data").read_bytes()
    assert 300_000 <= bytes_moved() - before < 400_000
    assert bytes_moved(tmp_path / "none") == 0
