"""What strangers may take of the servers' room and see of them, and publishers who come at the same moment."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from lockd.fleetlock_server import ImpatientProtocol
from tests.support.processes import Process, run_tool, tool, wait_for
from tests.support.releases import PRODUCT, Workshop
from updated.server import catalogue
from updated.server.app import make_app
from updated.server.catalogue import CHANNELS, EVENTS, Catalogue


def get(app: Any, path: str, **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
            return await http.get(path, headers=headers)

    return asyncio.run(run())


def test_parallel_publishers_keep_each_others_work(tmp_path: Path, workshop: Workshop) -> None:
    """Of four `publish` calls at the same moment, each on a channel of its own, every channel is there afterwards."""
    release = workshop.build(tmp_path, "1.1.0")
    channels = [f"channel-{number}" for number in range(4)]

    def publish(channel: str) -> int:
        return run_tool("update-server", "publish", tmp_path, release, "--channel", channel).returncode

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(publish, channels)) == [0] * 4
    assert set(json.loads((tmp_path / CHANNELS).read_text())) == {f"{PRODUCT}/{channel}" for channel in channels}


def test_payload_that_is_not_on_offer_is_not_served(tmp_path: Path, workshop: Workshop) -> None:
    """A payload that lies in the directory, and that no channel has, can't be had."""
    workshop.publish(tmp_path, "1.1.0")
    workshop.build(tmp_path, "1.2.0")
    app = make_app(tmp_path)
    assert get(app, f"/packages/{PRODUCT}-1.1.0.payload").status_code == 200
    assert get(app, f"/packages/{PRODUCT}-1.2.0.payload").status_code == 404


def test_events_are_bounded_on_the_disk_and_when_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events strangers send, two bounded files hold them, and the end of one is read to show the last."""
    monkeypatch.setattr(catalogue, "EVENTS_BYTES", 10_000)
    monkeypatch.setattr(catalogue, "SHOWN_BYTES", 2_000)
    store = Catalogue(tmp_path)
    for number in range(1000):
        store.note_events([{"number": number, "text": "x" * 100}])
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [EVENTS, f"{EVENTS}.1"]
    assert all((tmp_path / name).stat().st_size < 11_000 for name in files)
    shown = store.last_events(1000)
    assert [entry["number"] for entry in shown] == list(range(1000 - len(shown), 1000))
    assert 0 < len(shown) < 20


def test_events_are_for_operators(tmp_path: Path) -> None:
    """Beyond loopback the events need a token; with one, nobody sees them without it."""
    Catalogue(tmp_path).note_events([{"number": 1}])
    assert get(make_app(tmp_path), "/events").json() == [{"number": 1}]
    assert get(make_app(tmp_path, is_open=False), "/events").status_code == 401
    app = make_app(tmp_path, token=b"hush")
    for header in ("", "Bearer", "Bearer wrong", "Basic hush", "Bearer hush2"):
        assert get(app, "/events", Authorization=header).status_code == 401
    assert get(app, "/events", Authorization="Bearer hush").json() == [{"number": 1}]


def test_server_beyond_loopback_shows_no_events(tmp_path: Path) -> None:
    """The real server on all addresses refuses to show events without a token, and shows them to who has it."""
    token = tmp_path / "token"
    token.write_text("hush\n")
    for more, header, status in (([], {}, 401), (["--token-file", str(token)], {"Authorization": "Bearer hush"}, 200)):
        process = Process(
            [*tool("update-server"), "serve", str(tmp_path), "--listen", "0.0.0.0:0", *more], tmp_path / "log"
        )
        try:
            url = process.wait_log("listening on").split()[-1].replace("0.0.0.0", "127.0.0.1")
            assert httpx.get(f"{url}/events", headers=header, trust_env=False).status_code == status
        finally:
            process.stop()
            (tmp_path / "log").unlink()


def test_client_that_does_not_read_is_dropped() -> None:
    """A connection whose client takes nothing of what was answered is closed after the idle time, on a real server."""

    async def large(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"50000000")]})
        await send({"type": "http.response.body", "body": bytes(50_000_000)})

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            large, http=ImpatientProtocol, timeout_keep_alive=1, lifespan="off", log_level="warning", ws="none"
        )
        server = uvicorn.Server(config)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        try:
            with socket.create_connection(listening.getsockname()) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                wait_for(lambda: len(server.server_state.connections) == 1, "the connection")
                wait_for(lambda: not server.server_state.connections, "its end")
        finally:
            server.should_exit = True
            running.join()
