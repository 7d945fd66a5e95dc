"""`make demo`: one host updates itself, refuses a forgery, and comes back from a bad release, all on real parts.

Real: the daemons and commands of this tree, ext4 images made by mkfs, a GPT made by sfdisk, HTTP, etcd, dbus-daemon.
Played: the firmware. A boot loader model that shares no code with the product reads the GPT bits and picks the slot.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from base64 import b64encode
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import sha1, sha256
from pathlib import Path

from tests.support.dbus import private_bus
from tests.support.disks import make_disk
from tests.support.etcd import Etcd
from tests.support.images import MIB, make_ext4, make_tree
from tests.support.machine import Machine
from tests.support.processes import Process, run_tool, tool, wait_for
from updated.common.cli import table

PRODUCT = "org.example.demo-os"
SLOT_BYTES = 64 * MIB

LOCKD_TOML = """
strategy = "etcd"
group = "demo"
reboot_command = ["touch", "{{root}}/reboot-requested"]
boot_id_file = "{{root}}/boot_id"
machine_id_file = "{{root}}/machine-id"
state_dir = "{{root}}/lockd-state"
[etcd]
endpoints = ["{endpoint}"]
[[window]]
start = "{start}"
duration_secs = 7200
timezone = "UTC"
"""


class Demo:
    """The story, with what was seen so far."""

    def __init__(self, work: Path, stack: ExitStack) -> None:
        self.work, self.stack = work, stack
        self.seen: list[tuple[str, str]] = []
        self.began = time.monotonic()
        self.releases = work / "releases"

    def say(self, text: str) -> None:
        """Begin a step."""
        print(f"\n[{time.monotonic() - self.began:5.1f} s] {text}", flush=True)

    def show(self, text: str) -> None:
        """Show what a command printed."""
        print("".join(f"    {line}\n" for line in text.rstrip().splitlines()), end="", flush=True)

    def check(self, what: str, outcome: str, *, holds: bool) -> None:
        """Record what was seen; end the demo when it isn't what must be."""
        self.seen.append((what, outcome))
        if not holds:
            raise SystemExit(f"the demo failed: {what}: {outcome}")

    def play(self) -> None:
        """The whole story."""
        self.make_releases()
        machine = self.make_machine()
        self.update(machine)
        self.refuse_forgery(machine)
        self.survive_bad_release(machine)
        self.say("What was seen:")
        self.show(table(self.seen))
        print(f"\ndemo passed in {time.monotonic() - self.began:.0f} s", flush=True)

    # ---- before

    def make_image(self, version: str, *, healthy: bool = True) -> Path:
        """Make the file system of a release."""
        tree = make_tree(self.work / f"tree-{version}", version, healthy=healthy)
        return make_ext4(tree, self.work / f"{version}.img", SLOT_BYTES)

    def release(self, version: str, index: int, *, healthy: bool = True) -> Path:
        """Build and sign a release; return its release.json."""
        done = run_tool(
            "update-payload", "build", self.make_image(version, healthy=healthy), "--product", PRODUCT,
            "--channel", "stable", "--version", version, "--rollback-index", str(index),
            "--key", self.work / "keys/private.pem", "--out", self.releases,
        )  # fmt: skip
        self.show(done.stdout + done.stderr)
        assert done.returncode == 0
        return self.releases / f"{PRODUCT}-{version}.release.json"

    def publish(self, release: Path) -> None:
        """Offer a release on the channel."""
        done = run_tool("update-server", "publish", self.releases, release, "--channel", "stable")
        self.show(done.stdout + done.stderr)
        assert done.returncode == 0

    def make_releases(self) -> None:
        self.say("A release engineer makes a key pair and builds release 1.1.0 from a 64 MiB ext4 image.")
        self.show(run_tool("update-payload", "keygen", "--out", self.work / "keys").stdout)
        self.publish(self.release("1.1.0", 2))

    def make_machine(self) -> Machine:
        """Start etcd, a bus and the server; make a disk whose slot A holds 1.0.0; boot it."""
        self.say("A server, an etcd, a private D-Bus; a host whose slot A runs 1.0.0 and whose slot B is empty.")
        server = Process(
            [*tool("update-server"), "serve", str(self.releases), "--listen", "127.0.0.1:0"], self.work / "server.log"
        )
        self.stack.callback(server.stop)
        self.url = server.wait_log("listening on").split()[-1]
        etcd = self.stack.enter_context(Etcd(self.work / "etcd"))
        bus = self.stack.enter_context(private_bus(self.work / "bus"))
        start = datetime.now(UTC) - timedelta(hours=1)
        machine = Machine(
            self.work / "host",
            server=self.url,
            product=PRODUCT,
            bus=bus,
            lockd_toml=LOCKD_TOML.format(endpoint=etcd.endpoint, start=start.strftime("%H:%M")),
        )
        shutil.copy(self.work / "keys/public.pem", machine.root / "keys/release.pem")
        make_disk(machine.disk, SLOT_BYTES, {"USR-A": self.make_image("1.0.0")})
        self.stack.callback(machine.stop)
        self.boot(machine)
        machine.wait_status("confirmed boot", {"boot_confirmed": True})
        self.show(machine.ctl("slots").stdout)
        return machine

    def boot(self, machine: Machine) -> str:
        """Let the boot loader model pick."""
        choice = machine.boot()
        self.show(f"boot loader model: picks {choice.label}")
        return choice.label

    # ---- the three scenes

    def update(self, machine: Machine) -> None:
        """1.0.0 in A becomes 1.1.0 in B."""
        self.say("`update-ctl update --wait`: updated asks the server, verifies 1.1.0, writes it to slot B, arms it.")
        done = machine.ctl("update", "--wait")
        self.show(done.stdout + done.stderr)
        self.check("update to 1.1.0 installed", f"exit code {done.returncode}", holds=done.returncode == 0)
        self.say("lockd heard of it on D-Bus: window open, ticket taken in etcd, reboot asked for.")
        machine.wait_reboot_request()
        self.show(machine.lockctl("status").stdout)
        self.show(machine.ctl("status").stdout)
        label = self.boot(machine)
        status = machine.wait_status("confirmed boot", {"boot_confirmed": True})
        self.check(
            "boots and confirms",
            f"{status['version_booted']} from {label}",
            holds=(status["version_booted"], label) == ("1.1.0", "USR-B"),
        )
        self.wait_ticket_released(machine)
        self.show(machine.ctl("slots").stdout)

    def wait_ticket_released(self, machine: Machine) -> None:
        """Lockd gives the ticket back once the boot is confirmed."""
        assert machine.lockd is not None
        machine.lockd.wait_log("ticket-released")
        status = machine.lockctl("status")
        self.show(status.stdout)
        self.check("reboot ticket", "taken in etcd, released after the confirmed boot", holds=status.returncode == 0)

    def refuse_forgery(self, machine: Machine) -> None:
        """One bit of 1.2.0 flipped, and a server that lies about its hash."""
        self.say("An attacker owns the server: 1.2.0 with one bit flipped, and a hash that fits it.")
        release = self.release("1.2.0", 3)
        forge(release)
        self.publish(release)
        before = machine.slots()
        done = machine.ctl("update", "--wait")
        self.show(done.stdout + done.stderr)
        after = machine.slots()
        self.check("forged 1.2.0", f"refused, exit code {done.returncode}", holds=done.returncode == 3)
        self.check("slots after the forgery", "nothing marked, B as it was", holds=after == before)

    def survive_bad_release(self, machine: Machine) -> None:
        """1.3.0 is signed, but its health check fails."""
        self.say("A bad release, 1.3.0: rightly signed, but its health check fails.")
        self.publish(self.release("1.3.0", 4, healthy=False))
        done = machine.ctl("update", "--wait")
        self.show(done.stdout + done.stderr)
        self.check("bad 1.3.0 installed", f"exit code {done.returncode}", holds=done.returncode == 0)
        machine.wait_reboot_request()
        tried = self.boot(machine)
        self.say("The health gate judges the trial boot.")
        machine.wait_reboot_request()
        assert machine.updated is not None
        self.show(machine.updated.wait_log("event=unhealthy"))
        label = self.boot(machine)
        status = machine.wait_status("confirmed boot", {"boot_confirmed": True})
        self.check(
            "1.3.0 tried, rolled back",
            f"{tried}, then {status['version_booted']} from {label}",
            holds=(tried, status["version_booted"], label) == ("USR-A", "1.1.0", "USR-B"),
        )
        self.show(machine.ctl("status").stdout)
        self.see_group_paused(machine)
        self.see_report()
        self.see_not_taken_again(machine)

    def see_group_paused(self, machine: Machine) -> None:
        """A host that rolled back keeps its ticket and pauses its group, so that no other host follows it."""
        assert machine.lockd is not None

        def paused() -> str | None:
            shown = machine.lockctl("status").stdout
            return shown if "paused" in shown else None

        self.show(wait_for(paused, "paused group", machine.lockd))
        self.check("its group after the rollback", "paused, the ticket kept", holds=True)

    def see_report(self) -> None:
        """The server was told of the rollback."""
        events = [json.loads(line) for line in (self.releases / "events.jsonl").read_text().splitlines()]
        told = [event for event in events if event.get("errorcode") == 44]
        self.check("server told of the rollback", f"{len(told)} event 3/0, error 44", holds=len(told) == 1)

    def see_not_taken_again(self, machine: Machine) -> None:
        """The same release is offered again, and left alone."""
        self.say("1.3.0 is still on offer; the host remembers.")
        done = machine.ctl("update", "--wait")
        self.show(done.stdout + done.stderr)
        self.show(machine.ctl("explain").stdout)
        status = machine.status()
        untouched = not machine.slots()["A"]["bootable"] and status["state"] == "idle"
        self.check("1.3.0 offered again", "not taken", holds=untouched)


def forge(release: Path) -> None:
    """Flip one bit of a payload's manifest and make the release's hashes fit, as a server that lies would.

    A bit of the data might be one that this host doesn't fetch, because it has that part of the image already.
    """
    facts = json.loads(release.read_text())
    payload = release.parent / facts["payload"]
    data = bytearray(payload.read_bytes())
    data[100] ^= 1
    payload.write_bytes(data)
    facts["sha256"] = sha256(data).hexdigest()
    facts["sha1"] = b64encode(sha1(data, usedforsecurity=False).digest()).decode()
    release.write_text(json.dumps(facts))


def main() -> None:
    """Play the demo in a directory that is removed afterwards."""
    os.umask(0o022)  # settings and keys that a group may write are refused, whatever the shell makes
    if sys.flags.optimize:
        raise SystemExit("run the demo without -O: it looks with assert")
    with tempfile.TemporaryDirectory(prefix="updated-demo-") as directory, ExitStack() as stack:
        Demo(Path(directory), stack).play()


if __name__ == "__main__":
    main()
