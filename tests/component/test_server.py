"""update-server over real HTTP: rollout, ranges, what hosts report, and what nobody should send."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.processes import Process, run_tool, tool
from tests.support.releases import PRODUCT, Workshop
from tests.support.tap import Tap
from updated.install.effort import Effort
from updated.install.fetch import HttpSource, make_http
from updated.install.pace import FetchLimits
from updated.install.ranges import Span
from updated.omaha.messages import App, Event, NoUpdate, Offer, Request
from updated.omaha.request import encode_request
from updated.omaha.response import decide, parse_response
from updated.server.decisions import share_of


class Server:
    """A running update-server with release 1.1.0 on the channel stable."""

    def __init__(self, folder: Path, workshop: Workshop) -> None:
        self.folder = folder / "releases"
        self.release = workshop.publish(self.folder, "1.1.0")
        self.payload = self.folder / f"{PRODUCT}-1.1.0.payload"
        command = [*tool("update-server"), "serve", str(self.folder), "--listen", "127.0.0.1:0"]
        self.process = Process(command, folder / "server.log")
        self.url = self.process.wait_log("listening on").split()[-1]
        self.http = httpx.Client(trust_env=False)

    def ask(self, version: str = "1.0.0", machine: str = "0" * 32, **app: str) -> Offer | NoUpdate:
        request = Request(App(**{"appid": PRODUCT, "track": "stable", "version": version, "machineid": machine, **app}))
        answer = self.http.post(self.url + "/v1/update/", content=encode_request(request))
        assert answer.status_code == 200
        return decide(parse_response(answer.content), appid=request.app.appid, current_version=version)


@pytest.fixture
def server(tmp_path: Path, workshop: Workshop) -> Iterator[Server]:
    made = Server(tmp_path, workshop)
    try:
        yield made
    finally:
        made.http.close()
        made.process.stop()


def test_offer_is_the_published_release(server: Server) -> None:
    """An older host is offered the release with its size and hash; the same and a newer one aren't."""
    offer = server.ask()
    facts = json.loads(server.release.read_text())
    assert isinstance(offer, Offer)
    assert (offer.version, offer.size) == ("1.1.0", facts["size"])
    assert offer.sha256 is not None
    assert offer.sha256.hex() == facts["sha256"]
    assert server.http.get(offer.urls[0]).content == server.payload.read_bytes()
    assert isinstance(server.ask("1.1.0"), NoUpdate)
    assert isinstance(server.ask("1.2.0"), NoUpdate)
    assert isinstance(server.ask(track="beta"), NoUpdate)


def test_percentage_reaches_its_share_of_the_hosts(server: Server) -> None:
    """Of a hundred hosts about thirty get a release that is published for 30 per cent, the same ones at each ask."""
    done = run_tool("update-server", "publish", server.folder, server.release, "--channel", "stable", "--percent", "30")
    assert done.returncode == 0
    machines = [f"{number:032x}" for number in range(100)]
    offered = [machine for machine in machines if isinstance(server.ask(machine=machine), Offer)]
    assert offered == [machine for machine in machines if share_of(machine, "1.1.0") < 30]
    assert 15 <= len(offered) <= 45


@pytest.mark.parametrize(
    ("asked", "first", "last"), [("bytes=5-9", 5, 9), ("bytes=1000-", 1000, None), ("bytes=-3", -3, None)]
)
def test_ranges_are_exact(server: Server, asked: str, first: int, last: int | None) -> None:
    """A range of a payload is answered with exactly that range."""
    whole = server.payload.read_bytes()
    answer = server.http.get(f"{server.url}/packages/{server.payload.name}", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == whole[first : None if last is None else last + 1]
    assert answer.headers["Content-Range"].endswith(f"/{len(whole)}")


def test_scattered_parts_cost_only_themselves(server: Server) -> None:
    """Three hundred parts that a host lacks come from this server as those parts, never as the whole payload."""
    whole = server.payload.read_bytes()
    spans = [Span(at, at + 100) for at in range(0, len(whole) - 100, len(whole) // 300)]
    with Tap(int(server.url.rpartition(":")[2])) as tap, make_http() as http:
        url = f"{tap.url}/packages/{server.payload.name}"
        source = HttpSource([url], http=http, expected_size=len(whole), effort=Effort(FetchLimits()))
        assert b"".join(source.read(spans)) == b"".join(whole[span.begin : span.end] for span in spans)
    assert tap.passed < len(whole) / 4


def test_range_beyond_the_end_is_refused(server: Server) -> None:
    """A range that begins after the end is 416."""
    answer = server.http.get(f"{server.url}/packages/{server.payload.name}", headers={"Range": "bytes=999999999-"})
    assert answer.status_code == 416


@pytest.mark.parametrize(
    "name", ["../host.key", "%2e%2e%2fhost.key", "channels.json", "events.jsonl", "nothing.payload"]
)
def test_nothing_but_payloads_is_served(server: Server, name: str) -> None:
    """Neither paths out of the directory nor other files in it can be had."""
    (server.folder.parent / "host.key").write_text("secret")
    answer = server.http.get(f"{server.url}/packages/{name}")
    assert answer.status_code in (400, 404)
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"nonsense", 400), (b"<request/>", 400), (b"<!DOCTYPE a><request/>", 400), (b"x" * 100_000, 413),
        (b'<request><app appid="a"><event eventtype="x"/></app></request>', 400),
    ],
)  # fmt: skip
def test_bad_request_is_told_so(server: Server, body: bytes, status: int) -> None:
    """A request that is no Omaha request gets a status of 4xx and no traceback, and the server goes on."""
    answer = server.http.post(server.url + "/v1/update/", content=body)
    assert answer.status_code == status
    assert "Traceback" not in answer.text
    assert isinstance(server.ask(), Offer)


def test_unknown_product_is_refused_in_words(server: Server) -> None:
    """A product that the server doesn't have is an error that the host understands."""
    request = Request(App(appid="org.example.unknown", version="1", track="stable"))
    answer = server.http.post(server.url + "/v1/update", content=encode_request(request))
    with pytest.raises(Exception, match="doesn't know this product"):
        decide(parse_response(answer.content), appid="org.example.unknown", current_version="1")


def test_reports_of_many_hosts_at_once_are_all_kept(server: Server) -> None:
    """Events that arrive together are all in the log, each on its own line, and can be read over HTTP."""

    def report(host: int) -> None:
        for number in range(10):
            app = App(appid=PRODUCT, version="1.0.0", track="stable", machineid=f"{host:032x}")
            request = Request(app, updatecheck=False, events=(Event(3, 0, errorcode=number),))
            with httpx.Client(trust_env=False) as http:
                assert http.post(server.url + "/v1/update/", content=encode_request(request)).status_code == 200

    threads = [threading.Thread(target=report, args=(host,)) for host in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [json.loads(line) for line in (server.folder / "events.jsonl").read_text().splitlines()]
    assert {(event["machineid"], event["errorcode"]) for event in kept} == {
        (f"{host:032x}", number) for host in range(8) for number in range(10)
    }
    assert server.http.get(server.url + "/events").json() == kept


def test_publish_refuses_what_is_not_there(server: Server, tmp_path: Path) -> None:
    """A release outside of the directory, a payload that is gone or another and a share of 200 per cent are refused."""
    other = tmp_path / "other.release.json"
    other.write_text(server.release.read_text())
    assert run_tool("update-server", "publish", server.folder, other, "--channel", "stable").returncode == 2
    arguments = ("publish", server.folder, server.release, "--channel", "stable")
    assert run_tool("update-server", *arguments, "--percent", "200").returncode == 2
    right = server.payload.read_bytes()
    server.payload.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))  # another file of the same size
    assert run_tool("update-server", *arguments).returncode == 1
    server.payload.write_bytes(right)
    assert run_tool("update-server", *arguments).returncode == 0
    server.payload.unlink()
    assert run_tool("update-server", *arguments).returncode == 1
