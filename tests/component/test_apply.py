"""`update-ctl apply`: a payload by hand into the real daemon, from files and URLs, good ones and all others."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent_bench import Bench
from tests.support.loopback_http import serve_folder
from tests.support.processes import wait_for
from tests.support.releases import PRODUCT, SLOT_BYTES
from updated.common.bus import BusCallError, connect
from updated.release.sign import keygen

V1 = Path(__file__).parents[2] / "fixtures/payloads/crau-v1"
AGENT = ("org.updated.Agent1", "/org/updated/Agent1", "org.updated.Agent1.Manager")


def payload_of(bench: Bench, folder: Path, **changes: Any) -> Path:
    """Build release 1.1.0 where no server offers it; return its payload."""
    release = bench.workshop.build(folder / "stick", "1.1.0", **changes)
    return release.parent / str(json.loads(release.read_text())["payload"])


def content_of_b(bench: Bench) -> bytes:
    with bench.machine.disk.open("rb") as disk:
        disk.seek(1024 * 1024 + 64 * 1024 + SLOT_BYTES)
        return disk.read(SLOT_BYTES)


def reports(bench: Bench) -> list[dict[str, Any]]:
    """Return what the server heard."""
    url = bench.server.wait_log("listening on").split()[-1]
    with httpx.Client(trust_env=False) as http:
        return list(http.get(f"{url}/events").json())


def refused(bench: Bench, payload: str | Path, code: int, name: str) -> None:
    """Apply, and see that it fails with this exit code and error, and that nothing that counts changed."""
    before = bench.facts()
    done = bench.machine.ctl("apply", str(payload), "--wait")
    assert (done.returncode, f"[{name}]" in done.stderr) == (code, True), done.stdout + done.stderr
    assert ("what to do: " in done.stderr, "Traceback" in done.stderr) == (True, False)
    assert not bench.machine.slots()["B"]["bootable"]
    assert bench.facts() == before
    assert bench.machine.status()["state"] == "idle"


@pytest.mark.parametrize("major", [1, 2])
def test_file_is_installed_armed_and_booted(bench: Bench, tmp_path: Path, major: int) -> None:
    """A payload from a stick goes the way of any update, says that it came by hand, and the server isn't told of it."""
    payload = payload_of(bench, tmp_path, major=major)
    done = bench.machine.ctl("apply", str(payload), "--wait")
    assert done.returncode == 0, done.stderr
    assert content_of_b(bench) == bench.workshop.image("1.1.0").read_bytes()
    status = bench.machine.status()
    assert (status["state"], status["version_new"], status["by_hand"]) == ("need-reboot", "1.1.0", str(payload))
    assert f"installed by hand from {payload}" in bench.machine.ctl("explain").stdout
    (entry,) = [entry for entry in history(bench) if entry["what"] == "installed"]
    assert entry["detail"] == f"slot B, by hand from {payload}"
    assert reports(bench) == []
    bench.machine.boot()
    status = bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
    assert (status["version_booted"], status["by_hand"]) == ("1.1.0", None)
    wait_for(lambda: [(event["eventtype"], event["eventresult"]) for event in reports(bench)] == [(3, 2)], "the report")


def history(bench: Bench) -> list[dict[str, str]]:
    return list(json.loads(bench.machine.ctl("history", "--json").stdout))


def test_host_without_a_server_takes_a_file(bench: Bench, tmp_path: Path) -> None:
    """Where no update server is configured, a payload by hand is the way, and a link to it is as good."""
    config = bench.machine.root / "updated.toml"
    url = next(line for line in config.read_text().splitlines() if line.startswith("url = "))
    config.write_text(config.read_text().replace(url, 'url = "disabled"'))
    bench.machine.stop()
    bench.machine.start()
    link = tmp_path / "latest"
    link.symlink_to(payload_of(bench, tmp_path))
    bench.machine.wait_status("idle", {"boot_confirmed": True})
    assert bench.machine.ctl("apply", str(link), "--wait").returncode == 0
    assert bench.machine.slots()["B"]["bootable"]


def test_payload_alone_is_installed(bench: Bench, tmp_path: Path) -> None:
    """A payload that was copied without the other files of its release, its index too, is installed all the same."""
    (tmp_path / "alone").mkdir()
    payload = shutil.copy(payload_of(bench, tmp_path), tmp_path / "alone")
    done = bench.machine.ctl("apply", str(payload), "--wait")
    assert done.returncode == 0, done.stderr
    assert content_of_b(bench) == bench.workshop.image("1.1.0").read_bytes()


def test_payload_of_update_engine_is_named_after_its_file(bench: Bench, tmp_path: Path) -> None:
    """A payload that doesn't say its version, where such are allowed, is called what its file is called."""
    config, kernel = bench.machine.root / "updated.toml", tmp_path / "vmlinuz-{slot}"
    config.write_text(
        config.read_text().replace("[slots]", f'allow_legacy_payloads = true\n[slots]\nkernel_path = "{kernel}"')
    )
    shutil.copy(V1 / "key-a.pub.pem", bench.machine.root / "keys/key-a.pem")
    bench.machine.stop()
    bench.machine.start()
    assert bench.machine.ctl("apply", str(V1 / "full-signed-kernel.bin"), "--wait").returncode == 0
    assert bench.machine.status()["version_new"] == "full-signed-kernel.bin"
    image = lzma.decompress((V1 / "new.img.xz").read_bytes())
    assert content_of_b(bench)[: len(image)] == image
    assert (tmp_path / "vmlinuz-b").read_bytes() == (V1 / "vmlinuz-new").read_bytes()


def test_url_is_installed(bench: Bench) -> None:
    """A payload from any web server is installed without its being on offer."""
    bench.workshop.build(bench.releases, "1.1.0")
    with serve_folder(bench.releases) as web:
        url = f"{web.url}/{PRODUCT}-1.1.0.payload"
        done = bench.machine.ctl("apply", url, "--wait")
    assert done.returncode == 0, done.stderr
    assert content_of_b(bench) == bench.workshop.image("1.1.0").read_bytes()
    assert bench.machine.status()["by_hand"] == url


def test_apply_goes_on_without_its_command(bench: Bench, tmp_path: Path) -> None:
    """Without --wait the command ends at once, with --json it prints the status, and the install goes on without it."""
    payload = payload_of(bench, tmp_path)
    done = bench.machine.ctl("apply", str(payload), "--json")
    assert (done.returncode, json.loads(done.stdout)["version_booted"]) == (0, "1.0.0")
    payload.unlink()  # the agent has it open
    status = bench.machine.wait_status("need-reboot", {"state": "need-reboot"})
    bench.machine.stop()
    bench.machine.start()
    again = bench.machine.wait_status("need-reboot", {"state": "need-reboot"})
    assert again["by_hand"] == status["by_hand"] == str(payload)


def flip(payload: Path, at: int) -> None:
    data = bytearray(payload.read_bytes())
    data[at] ^= 1
    payload.write_bytes(data)


def test_forged_file_is_refused(bench: Bench, tmp_path: Path) -> None:
    """A file that a stranger signed, and one whose bits were changed, are refused like any such payload."""
    keygen(tmp_path / "stranger")
    refused(bench, payload_of(bench, tmp_path, key=tmp_path / "stranger/private.pem"), 3, "metadata-signature-mismatch")
    payload = payload_of(bench, tmp_path)
    flip(payload, payload.stat().st_size // 2)
    refused(bench, payload, 3, "operation-hash-mismatch")
    said = json.loads(bench.machine.ctl("explain", "--json").stdout)["reasons"]
    assert said[-1]["why"].startswith(f"by hand, from {payload}: ")
    (entry,) = [entry for entry in history(bench) if entry["what"] == "failed"][-1:]
    assert entry["detail"].startswith(f"by hand from {payload}: ")
    assert reports(bench) == []


def test_file_of_another_length_is_refused(bench: Bench, tmp_path: Path) -> None:
    """A file with a byte too many, or cut off anywhere, also at its beginning, isn't installed."""
    payload = payload_of(bench, tmp_path)
    size = payload.stat().st_size
    for left in (size + 1, size - 1, size // 2, 100, 0):
        os.truncate(payload, left)
        refused(bench, payload, 1, "payload-size-mismatch")


def test_any_other_file_is_refused(bench: Bench, tmp_path: Path) -> None:
    """What is no payload is refused as such; what is no file, or isn't there, isn't even handed to the agent."""
    (tmp_path / "text").write_text("hello, this is no payload\n")
    refused(bench, tmp_path / "text", 3, "metadata-magic")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "gone", Path("/dev/null")):
        done = bench.machine.ctl("apply", str(path), "--wait")
        assert (done.returncode, "what to do: " in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_url_that_is_none_is_refused(bench: Bench) -> None:
    """A URL without a host or a right port, with credentials or with blanks is refused before anything is asked for."""
    none = ("http:///x", "https://user:secret@127.0.0.1/x", "http://127.0.0.1/a b", "http://[::1/x", "http://h:port/x")
    for url in none:
        done = bench.machine.ctl("apply", url, "--wait")
        assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr


def test_url_that_leads_nowhere(bench: Bench) -> None:
    """A URL behind which there is no payload is an error that says so."""
    refused(bench, bench.server.wait_log("listening on").split()[-1] + "/packages/none.payload", 1, "http-status")


def test_secret_in_a_url_stays_one(bench: Bench) -> None:
    """What is behind the question mark of a URL is sent to its server and shown to nobody."""
    release = bench.workshop.build(bench.releases, "1.1.0")
    with serve_folder(bench.releases) as web:
        refused(bench, f"{web.url}/none.payload?token=geheim", 1, "http-status")
        assert f"{web.url}/none.payload?..." in bench.machine.ctl("explain").stdout
        assert release.exists()
        good = f"{web.url}/{PRODUCT}-1.1.0.payload?token=geheim"
        assert bench.machine.ctl("apply", good, "--wait").returncode == 0
    for command in ("status", "explain", "history"):
        assert "geheim" not in bench.machine.ctl(command, "--json").stdout
    assert bench.machine.updated is not None
    assert "geheim" not in bench.machine.updated.log.read_text()


def test_what_no_update_may_be_is_refused(bench: Bench, tmp_path: Path) -> None:
    """By hand, too, nothing older than what ran well here is installed, and nothing that is for other hosts."""
    (bench.machine.root / "state/rollback-floor").write_text("5\n")
    refused(bench, payload_of(bench, tmp_path, rollback_index=4), 3, "rollback-index-too-low")
    refused(bench, payload_of(bench, tmp_path, rollback_index=5, product="org.example.other"), 3, "product-mismatch")
    refused(bench, payload_of(bench, tmp_path, rollback_index=5, channel="beta"), 3, "channel-mismatch")


@contextmanager
def stalling_server() -> Iterator[tuple[str, threading.Event]]:
    """A server that answers a request once it is allowed to, with 404; yields its URL and what allows it."""
    go_on = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            go_on.wait(60)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/x.payload", go_on
    finally:
        go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_silent_server_holds_up_no_stop(bench: Bench) -> None:
    """An agent that waits for a server's answer ends when it is told to, long before that server's time is up."""
    with stalling_server() as (url, _):
        assert bench.machine.ctl("apply", url).returncode == 0
        bench.machine.wait_status("downloading", {"state": "downloading", "by_hand": url})
        assert bench.machine.updated is not None
        assert bench.machine.updated.stop() == 0


def test_apply_while_an_install_runs_is_refused(bench: Bench, tmp_path: Path) -> None:
    """A second install is refused while one is under way, and so is a check; the first one isn't disturbed."""
    with stalling_server() as (url, go_on):
        assert bench.machine.ctl("apply", url).returncode == 0
        bench.machine.wait_status("downloading", {"state": "downloading", "by_hand": url})
        assert "an install by hand is under way" in bench.machine.ctl("explain").stdout
        for command in (["apply", str(payload_of(bench, tmp_path)), "--wait"], ["update", "--wait"], ["check"]):
            done = bench.machine.ctl(*command)
            assert (done.returncode, "[busy]" in done.stderr) == (3, True), done.stderr
        assert bench.machine.status()["by_hand"] == url
        go_on.set()
        bench.machine.wait_status("idle", {"state": "idle"})
    assert bench.machine.status()["last_error"]["name"] == "http-status"


def test_apply_onto_an_armed_slot_is_refused(bench: Bench, tmp_path: Path) -> None:
    """While a reboot is waited for, another payload isn't taken; `reset` lets it in."""
    payload = payload_of(bench, tmp_path)
    assert bench.machine.ctl("apply", str(payload), "--wait").returncode == 0
    assert bench.machine.ctl("apply", str(payload), "--wait").returncode == 3
    assert bench.machine.ctl("reset").returncode == 0
    bench.machine.wait_status("idle", {"state": "idle", "by_hand": None})
    assert bench.machine.ctl("apply", str(payload), "--wait").returncode == 0


def test_version_that_failed_is_refused(bench: Bench, tmp_path: Path) -> None:
    """A version that didn't boot well isn't taken by hand either until it is told to forget that."""
    payload = payload_of(bench, tmp_path, healthy=False)
    assert bench.machine.ctl("apply", str(payload), "--wait").returncode == 0
    bench.machine.boot()
    bench.machine.wait_reboot_request()
    bench.machine.boot()
    bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
    refused(bench, payload, 3, "version-failed-before")
    assert bench.machine.ctl("reset").returncode == 0
    assert bench.machine.ctl("apply", str(payload), "--wait").returncode == 0


def test_packages_beside_the_file_are_installed(bench: Bench, tmp_path: Path) -> None:
    """A release's packages are taken from beside the payload, and a link there leads nowhere."""
    tools = tmp_path / "tools.raw"
    tools.write_bytes(os.urandom(70_000))
    with (bench.machine.root / "updated.toml").open("a") as config:
        config.write(f'[packages]\ndir = "{tmp_path}/packages/{{slot}}"\n')
    bench.machine.stop()
    bench.machine.start()
    payload = packaged(bench, tmp_path, tools)
    beside = payload.parent / "tools.raw"
    beside.rename(tmp_path / "moved")
    beside.symlink_to(tmp_path / "moved")
    refused(bench, payload, 1, "download-transfer")
    beside.unlink()
    shutil.copy(tools, beside)
    assert bench.machine.ctl("apply", str(payload), "--wait").returncode == 0
    assert (tmp_path / "packages/b/tools.raw").read_bytes() == tools.read_bytes()


def packaged(bench: Bench, folder: Path, *files: Path) -> Path:
    from updated.release.packages import PackageFile  # noqa: PLC0415

    return payload_of(bench, folder, packages=tuple(PackageFile(file) for file in files))


def open_descriptors(bench: Bench) -> int:
    assert bench.machine.updated is not None
    return len(list(Path(f"/proc/{bench.machine.updated.child.pid}/fd").iterdir()))


async def test_descriptors_do_not_leak(bench: Bench, tmp_path: Path) -> None:
    """However many descriptors are sent to the agent, with whatever call, it keeps none of them, and no traceback."""
    (tmp_path / "text").write_text("hello")
    bus = await connect(bench.bus, with_descriptors=True)
    file, directory = os.open(tmp_path / "text", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    try:
        await bus.call(*AGENT, "Status")
        before = open_descriptors(bench)
        for _ in range(20):
            for member, signature, body in (
                ("Apply", "hhs", (directory, directory, "x")),
                ("Apply", "hhs", (file, file, "x")),
                ("Apply", "hs", (file, "x")),
                ("Status", "hh", (file, directory)),
                ("Nonsense", "h", (file,)),
            ):
                with pytest.raises(BusCallError) as caught:
                    await bus.call(*AGENT, member, signature, body)
                assert "Traceback" not in caught.value.text
        assert json.loads((await bus.call(*AGENT, "Status"))[0])["state"] == "idle"
        assert open_descriptors(bench) == before
    finally:
        os.close(file)
        os.close(directory)
        await bus.close()


async def test_path_is_for_people_only(bench: Bench, tmp_path: Path) -> None:
    """The path that comes with a descriptor is shown, cut and without control characters, and leads to no file."""
    (tmp_path / "text").write_text("hello, this is no payload\n")
    bus = await connect(bench.bus, with_descriptors=True)
    file, directory = os.open(tmp_path / "text", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    try:
        await bus.call(*AGENT, "Apply", "hhs", (file, directory, "/gone/\x1b[31m\n" + "x" * 5000))
    finally:
        os.close(file)
        os.close(directory)
        await bus.close()
    error = bench.machine.wait_status("idle", {"state": "idle"})["last_error"]
    assert (error["name"], error["by_hand"]) == ("metadata-magic", "/gone/?[31m?" + "x" * 288 + "...")


def test_applied_payload_is_closed(bench: Bench, tmp_path: Path) -> None:
    """After an install by hand, a good one or not, the agent has the payload closed."""
    payload = payload_of(bench, tmp_path)
    flipped = tmp_path / "flipped"
    shutil.copy(payload, flipped)
    flip(flipped, 100)
    refused(bench, flipped, 3, "metadata-signature-mismatch")
    before = open_descriptors(bench)
    refused(bench, flipped, 3, "metadata-signature-mismatch")
    assert open_descriptors(bench) == before
    (bench.machine.root / "keys/release.pem").unlink()
    refused(bench, payload, 3, "key-missing")
    assert open_descriptors(bench) == before
