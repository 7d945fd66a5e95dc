"""What holds a reboot back on a host: real programs, a real HTTP server as Prometheus, a double of logind on a bus."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lockd import alerts, sessions
from lockd.blockers import KEPT_SECS, Blockers, held_by_file
from lockd.local_settings import AlertSettings, HookSettings, SessionSettings
from lockd.people import People
from tests.component.test_lockd_hooks import script
from tests.support.agent_double import AgentDouble
from tests.support.dbus import private_bus
from tests.support.moving_clock import MovingClock
from updated.common.bus import Bus, connect

EMPTY = {"status": "success", "data": {"resultType": "vector", "result": []}}


class Prometheus(ThreadingHTTPServer):
    """Answers every query with `answer`, and keeps the last one that came."""

    daemon_threads = True
    answer: tuple[int, bytes] = (200, b"")
    asked: tuple[str, str, str] = ("", "", "")


class Handler(BaseHTTPRequestHandler):
    server: Prometheus

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)["query"][0]
        self.server.asked = (parts.path, query, self.headers.get("Authorization", ""))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    server = Prometheus(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(server: Prometheus) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/"


async def test_empty_query_lets_go_and_is_asked_as_written(prometheus: Prometheus, tmp_path: Path) -> None:
    """A vector with nothing in it is the only answer that doesn't block; query and token arrive as they are."""
    prometheus.answer = (200, json.dumps(EMPTY).encode())
    (tmp_path / "token").write_text("s3cret\n")
    query = 'ALERTS{severity="critical", team=~"a+b"}'
    assert await alerts.ask(AlertSettings(url(prometheus), query, token_file=tmp_path / "token")) == ""
    assert prometheus.asked == ("/api/v1/query", query, "Bearer s3cret")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, EMPTY | {"data": {"resultType": "vector", "result": [{"metric": {"alertname": "Disk"}}]}}, "Disk"),
        (200, {"status": "success", "data": {"resultType": "scalar", "result": [1, "0"]}}, "a scalar, not a vector"),
        (200, EMPTY | {"warnings": ["store down"]}, "store down"),
        (400, {"status": "error", "error": "parse error"}, "parse error"),
        (503, EMPTY, "answers 503"),
        (500, {}, "answers 500"),
        (302, {}, "answers 302"),
        (200, {}, "isn't understood"),
        (200, [], "isn't understood"),
        (200, {"status": "success", "data": {"resultType": "vector", "result": [None]}}, "isn't understood"),
        (200, {"x": "y" * (2 * alerts.ANSWER_LIMIT)}, "over 1048576 bytes"),
    ],
)  # fmt: skip
async def test_everything_else_blocks(prometheus: Prometheus, status: int, body: object, words: str) -> None:
    """An alert, an error, a warning, and an answer that makes no sense hold the reboot back, and say so."""
    prometheus.answer = (status, json.dumps(body).encode())
    assert words in await alerts.ask(AlertSettings(url(prometheus)))


async def test_prometheus_that_is_gone_blocks(prometheus: Prometheus) -> None:
    """Nobody there is no "all is well"."""
    where = url(prometheus)
    prometheus.socket.close()
    assert "can't be asked" in await alerts.ask(AlertSettings(where, timeout_secs=2.0))


async def test_prometheus_that_drips_blocks_in_time() -> None:
    """An answer that comes byte by byte, each in time, is no answer once the whole time is over."""
    left = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        left.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, asyncio.timeout(30):
        assert "doesn't answer in 0.5 s" in await alerts.ask(AlertSettings(where, timeout_secs=0.5))
        await left.wait()


@pytest.fixture
def double(tmp_path: Path) -> Iterator[tuple[AgentDouble, str]]:
    with private_bus(tmp_path / "bus") as address:
        made = AgentDouble(address, tmp_path / "agent", "boot-1")
        yield made, address
        made.stop()


@pytest.fixture
async def bus(double: tuple[AgentDouble, str]) -> AsyncIterator[Bus]:
    made = await connect(double[1])
    yield made
    await made.close()


async def test_programs_and_inhibitors_block_with_their_words(
    tmp_path: Path, double: tuple[AgentDouble, str], bus: Bus
) -> None:
    """Each program that doesn't end with 0 and each inhibitor is a blocker, with its own reason."""
    folder, clock = tmp_path / "etc/blockers.d", MovingClock()
    script(folder, "10-fine", "exit 0")
    script(folder, "20-backup", "echo backup until 04:00; exit 1")
    script(folder, "30-broken", "exit 0", 0o644)
    double[0].say(inhibitors={"dpkg": "installing"})
    blockers = Blockers(clock, bus, (HookSettings(dirs=(tmp_path / "etc",)), AlertSettings()), {})
    found = {one.name: one.reason for one in await blockers.look({}, near=True)}
    assert found["inhibitor"] == "dpkg: installing (pid 1)"
    assert found["blockers.d/20-backup"] == "backup until 04:00 (ended with 1)"
    assert "isn't executable" in found["blockers.d/30-broken"]
    assert len(found) == 3


async def test_answers_are_kept_only_while_no_reboot_is_near(tmp_path: Path, bus: Bus) -> None:
    """Outside the window programs run every five minutes; when a reboot would follow they run at each look."""
    counter, clock = tmp_path / "count", MovingClock()
    script(tmp_path / "etc/blockers.d", "10-count", f"echo x >> {counter}")
    blockers = Blockers(clock, bus, (HookSettings(dirs=(tmp_path / "etc",)), AlertSettings()), {})
    for near, expected in ((False, 1), (False, 1), (True, 2), (True, 3), (False, 3)):
        await blockers.look({}, near=near)
        assert len(counter.read_text().split()) == expected
    clock.advance(KEPT_SECS)
    await blockers.look({}, near=False)
    assert len(counter.read_text().split()) == 4


def test_hold_file_blocks_whatever_is_in_it(tmp_path: Path) -> None:
    """A hold file holds with its text, empty, and also when it can't be read."""
    assert held_by_file(tmp_path / "hold") == ()
    (tmp_path / "hold").touch()
    assert "is there" in held_by_file(tmp_path / "hold")[0].reason
    (tmp_path / "dir").mkdir()
    assert "can't be read" in held_by_file(tmp_path / "dir")[0].reason
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "can't be read" in held_by_file(tmp_path / "link")[0].reason


async def test_hooks_that_are_lost_block(tmp_path: Path, bus: Bus) -> None:
    """A directory of hooks.dirs that isn't there, and a blockers.d that is a dead link, each hold the reboot back."""

    async def reasons() -> list[str]:
        blockers = Blockers(MovingClock(), bus, (HookSettings(dirs=(tmp_path / "etc",)), AlertSettings()), {})
        return [one.reason for one in await blockers.look({}, near=True)]

    (missing,) = await reasons()
    assert "no such directory, but hooks.dirs names it" in missing
    (tmp_path / "etc").mkdir()
    assert await reasons() == []
    (tmp_path / "etc/blockers.d").symlink_to(tmp_path / "nowhere")
    (dead,) = await reasons()
    assert "can't be listed" in dead


@pytest.mark.parametrize("body", [[], [1], [[["shutdown", "dpkg"]]], ["x"], [[[1, 2, 3, 4, 5, 6]]]])
async def test_answers_of_logind_that_make_no_sense_block(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, body: list[object]
) -> None:
    """An answer of another shape is no "nobody": it counts as a logind that can't be asked."""

    async def answer(*_call: object) -> list[object]:
        return body

    monkeypatch.setattr(bus, "call", answer)
    (blocker,) = await sessions.inhibitors(bus)
    assert "logind can't be asked" in blocker.reason
    (blocker,) = await People(MovingClock(), bus, SessionSettings("block"), "host-a").hold_back("why")
    assert "isn't understood" in blocker.reason


async def test_people_are_told_counted_down_and_then_not_waited_for(
    tmp_path: Path, double: tuple[AgentDouble, str], bus: Bus
) -> None:
    """Who is logged in is told at first and again near the end, holds the reboot back that long, and no longer."""
    clock, told = MovingClock(), tmp_path / "told"
    wall = script(tmp_path, "wall", f'echo "$1" >> {told}')
    double[0].say(sessions={"c1": {"Class": "user", "TTY": "tty1", "State": "active"}, "g": {"Class": "greeter"}})
    people = People(
        clock, bus, SessionSettings(grace_secs=100.0, announce="command", wall_command=(str(wall),)), "host-a"
    )
    (blocker,) = await people.hold_back("version 2.0 waits")
    assert "user-c1 on tty1" in blocker.reason
    assert blocker.ends_at is not None
    clock.advance(50)
    assert await people.hold_back("version 2.0 waits")
    clock.advance(50)
    assert await people.hold_back("version 2.0 waits") == ()
    lines = told.read_text().splitlines()
    assert len(lines) == 2
    assert "host-a reboots in 1 min 40 s: version 2.0 waits" in lines[0]
    assert "in 50 s" in lines[1]


@pytest.mark.parametrize(("policy", "blocks"), [("ignore", False), ("block", True)])
async def test_policies_for_people(double: tuple[AgentDouble, str], bus: Bus, policy: str, blocks: bool) -> None:
    """`ignore` doesn't ask, `block` waits for them to log out, however long."""
    clock = MovingClock()
    double[0].say(sessions={"c1": {"Class": "user", "TTY": "pts/0", "State": "active"}})
    people = People(clock, bus, SessionSettings(policy, grace_secs=1.0), "host-a")
    clock.advance(3600)
    assert bool(await people.hold_back("why")) is blocks
    double[0].say(sessions={})
    assert await people.hold_back("why") == ()
