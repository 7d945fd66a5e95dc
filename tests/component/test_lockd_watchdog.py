"""The watchdog of the service manager: fed through everything that may take long, and not for ever."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest

from lockd.coordinator import LOOK_SECS
from lockd.local_settings import HookSettings
from lockd.surroundings import WATCHDOG_SHARE, kept_alive
from updated.common.notify import Notifier

ROOT = Path(__file__).parents[2]


class Manager:
    """The service manager's end of the socket: counts the signs of life."""

    def __init__(self, path: Path, watchdog_secs: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.notifier = Notifier(str(path), watchdog_secs)

    def signs(self) -> int:
        """Return how many came since the last question."""
        count = 0
        while True:
            try:
                count += self._socket.recv(4096) == b"WATCHDOG=1"
            except BlockingIOError:
                return count

    def close(self) -> None:
        self._socket.close()


async def until_signs(manager: Manager, wanted: int) -> None:
    """Return after so many signs of life."""
    while (wanted := wanted - manager.signs()) > 0:
        await asyncio.sleep(0.01)


async def test_work_is_kept_alive_until_its_limit(tmp_path: Path) -> None:
    """While work goes on signs of life come; after the limit none does, so that work that hangs is ended."""
    manager = Manager(tmp_path / "notify", 0.03)
    try:
        await kept_alive(manager.notifier, until_signs(manager, 5))
        ended = asyncio.Event()
        task = asyncio.ensure_future(kept_alive(manager.notifier, ended.wait(), limit_secs=0.045))
        await until_signs(manager, 4)
        for _turn in range(20):
            await asyncio.sleep(0.01)
        assert manager.signs() == 0
        ended.set()
        assert await task is True
    finally:
        manager.close()


@pytest.mark.parametrize("unit", ["lockd.service"])
def test_shipped_watchdog_is_longer_than_what_feeds_it(unit: str) -> None:
    """The unit's watchdog is shorter than a program may take, so programs must be fed for; and a hung look is ended."""
    text = (ROOT / "systemd" / unit).read_text()
    watchdog = float(next(iter(re.findall(r"^WatchdogSec=(\d+)$", text, re.MULTILINE))))
    assert watchdog / WATCHDOG_SHARE < watchdog / 2, "sd_watchdog_enabled(3) asks for half of the time"
    assert HookSettings().pre_reboot_timeout_secs > watchdog
    assert watchdog < LOOK_SECS < 3600
