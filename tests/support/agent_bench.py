"""One machine whose agent runs, and the server it asks: what most tests of the agent begin with."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.support.disks import make_disk
from tests.support.machine import Machine
from tests.support.processes import Process, tool
from tests.support.releases import PRODUCT, SLOT_BYTES, Workshop


class Bench:
    """One machine that runs 1.0.0 from slot A, and the server it asks."""

    def __init__(self, tmp_path: Path, workshop: Workshop, bus: str) -> None:
        self.releases, self.workshop, self.bus = tmp_path / "releases", workshop, bus
        self.releases.mkdir()
        self.server = Process(
            [*tool("update-server"), "serve", str(self.releases), "--listen", "127.0.0.1:0"], tmp_path / "server.log"
        )
        url = self.server.wait_log("listening on").split()[-1]
        self.machine = Machine(tmp_path / "host", server=url, product=PRODUCT, bus=bus)
        workshop.trust(self.machine.root / "keys")
        make_disk(self.machine.disk, SLOT_BYTES, {"USR-A": workshop.image("1.0.0")})
        self.machine.boot()
        self.machine.wait_status("confirmed boot", {"boot_confirmed": True})

    def close(self) -> None:
        self.machine.stop()
        self.server.stop()

    def publish(self, version: str, **changes: Any) -> Path:
        return self.workshop.publish(self.releases, version, **changes)

    def update(self) -> Any:
        return self.machine.ctl("update", "--wait")

    def facts(self) -> tuple[str, str, dict[str, Any]]:
        """Return what no refused update may change: slot A's bytes, its entry, the floor and what is pending."""
        slot = self.machine.slots()["A"]
        with self.machine.disk.open("rb") as disk:
            disk.seek(1024 * 1024 + 64 * 1024)
            content = sha256(disk.read(SLOT_BYTES)).hexdigest()
        state = json.loads((self.machine.root / "state/state.json").read_text())
        floor = self.machine.root / "state/rollback-floor"
        kept = {"pending": state["pending"], "failed": state["failed_versions"], "floor": floor.exists()}
        return content, json.dumps(slot), kept

    def refused(self, code: int, name: str) -> None:
        """Update, and see that it is refused with this exit code and error, and that nothing that counts changed."""
        before = self.facts()
        done = self.update()
        assert (done.returncode, f"[{name}]" in done.stderr) == (code, True), done.stdout + done.stderr
        assert "what to do: " in done.stderr
        assert "Traceback" not in done.stderr
        status = self.machine.status()
        assert status["last_error"]["name"] == name
        assert status["state"] == "idle"
        assert not self.machine.slots()["B"]["bootable"]
        assert self.facts() == before
