"""What the machines' operator has: releases of the system, signed with the key that the images trust, and a server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import httpx

from fixtures.image.machine import SystemSlot
from fixtures.image.system import keys
from tests.support.loopback_http import LoopbackHttp, QuietHandler
from tests.support.processes import Process, tool
from tests.support.vm.machine import PRODUCT
from tests.support.vm.qemu import HOST
from updated.release.build import BuildRequest, build
from updated.server.catalogue import EVENTS, Catalogue

ROLLED_BACK = 44  # update_engine's number for it


class Door(LoopbackHttp):
    """Stands in front of update-server and notes which version each request names; payloads go past it."""

    def __init__(self, server: str) -> None:
        self.versions: list[str] = []
        port = urlsplit(server).port
        outer = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802  http.server looks it up by this name
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {"Content-Type": self.headers["Content-Type"], "Host": f"{HOST}:{port}"}
                answer = httpx.post(server + self.path, content=body, headers=headers, trust_env=False)
                outer.versions += [app.attrib["version"] for app in ET.fromstring(body).iter("app")]
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

        super().__init__(Handler)


class Site:
    """Releases in a folder, offered by a real update-server on loopback."""

    def __init__(self, folder: Path, door: Door) -> None:
        self.folder, self._door = folder, door

    @property
    def port(self) -> int:
        """Where the server listens on this host's loopback."""
        port = urlsplit(self._door.url).port
        assert port is not None
        return port

    @property
    def requests(self) -> int:
        """How many requests came so far."""
        return len(self._door.versions)

    def versions(self, since: int = 0) -> list[str]:
        """Return the versions that the machines said they run, a request each, from number `since` on."""
        return self._door.versions[since:]

    def offer(self, slot: SystemSlot, version: str, *, old: SystemSlot | None = None, **more: Any) -> Path:
        """Build a release of a slot's image, a delta where there is an old one, and offer it; return its payload."""
        request = BuildRequest(
            image=slot.image,
            product=PRODUCT,
            channel="stable",
            version=version,
            rollback_index=1,
            key=keys() / "private.pem",
            out=self.folder,
            old=old.image if old else None,
            **more,
        )
        Catalogue(self.folder).publish(build(request), "stable")
        return request.payload

    def events(self) -> list[dict[str, Any]]:
        """Return what the machines reported, oldest first."""
        path = self.folder / EVENTS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def rollbacks(self) -> list[dict[str, Any]]:
        """Return the reports that an update had to be rolled back."""
        return [event for event in self.events() if (event["eventresult"], event["errorcode"]) == (0, ROLLED_BACK)]


@contextmanager
def serving(folder: Path) -> Iterator[Site]:
    """Serve the releases of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Process([*tool("update-server"), "serve", str(folder), "--listen", "127.0.0.1:0"], folder / "server.log")
    try:
        found = re.search(r"http://\S+", server.wait_log("listening on "))
        assert found is not None
        with Door(found[0]) as door:
            yield Site(folder, door)
    finally:
        server.stop()
