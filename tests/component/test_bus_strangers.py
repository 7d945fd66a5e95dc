"""Local users on a bus, with and without its policy: neither daemon ends, stalls or fills, and a person is answered."""

from __future__ import annotations

import asyncio
import json
import os
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.agent_bench import Bench
from tests.support.bus_stranger import CALL, SIGNAL, array, join, message, start
from tests.support.lockd_host import LockdHost
from tests.support.processes import Process, run_tool
from tests.support.system_bus import DENIED, NOBODY, send, system_bus
from updated.common.bus import BusCallError, connect

AGENT = ("org.updated.Agent1", "/org/updated/Agent1", "org.updated.Agent1.Manager")
LOCKD = ("org.lockd.Lockd1", "/org/lockd/Lockd1", "org.lockd.Lockd1.Manager")
ASK = ["dbus-send", "--print-reply", "--reply-timeout=60000"]
GROWTH_MIB = 40  # what a daemon's memory may grow by, of whatever is sent to it


def resident(process: Process | None) -> int:
    """Return the MiB that a process has in memory now."""
    assert process is not None
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{process.child.pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) // 1024


def signatures(first: int, count: int) -> bytes:
    """Return an array of variants whose signatures are all different, each a structure of 60 empty arrays."""
    out = bytearray()
    for number in range(first, first + count):
        left, signature = number, b"("
        for _ in range(60):
            signature += b"a" + (b"n", b"q", b"i")[left % 3]
            left //= 3
        signature += b")"
        out += bytes([len(signature)]) + signature + b"\0"
        out += bytes(-(len(out) + 4) % 8) + bytes(4 * 60)
    return array(bytes(out))


def answers(bus: str, target: tuple[str, str, str]) -> None:
    """See that a person's call is answered."""
    name, path, interface = target
    done = subprocess.run(
        [*ASK, f"--bus={bus}", f"--dest={name}", path, f"{interface}.Status"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def send_hostile(bus: str, target: tuple[str, str, str]) -> None:
    """Send what takes much memory or time to take apart, as signals and as calls, to a name of ours."""
    name, path, interface = target
    line = join(bus)
    for kind, member in ((SIGNAL, "StatusUpdate"), (CALL, "Status"), (CALL, "Apply"), (CALL, "Nonsense")):
        line.sendall(message(kind, name, path, interface, member, b"av", array(b"\1y\0\7" * 2_000_000), flags=1))
        for batch in range(10):
            line.sendall(message(kind, name, path, interface, member, b"av", signatures(batch * 2000, 2000), flags=1))
        text = struct.pack("<I", 5_000_000) + b"x" * 5_000_000 + b"\0"
        line.sendall(message(kind, name, path, interface, member, b"s", text, flags=1))
    line.sendall(message(CALL, name, path, "org.freedesktop.DBus.Properties", "Set", b"ssv", b"", flags=1))
    line.close()


@pytest.mark.parametrize("which", ["updated", "lockd"])
def test_huge_and_endlessly_different_bodies_fill_no_daemon(
    tmp_path: Path, request: pytest.FixtureRequest, which: str
) -> None:
    """Bodies of millions of values, of signatures never seen, of a long text: none is taken apart, memory stays."""
    with one_daemon(tmp_path, request, which) as (process, bus, target):
        answers(bus, target)
        before = resident(process)
        send_hostile(bus, target)
        answers(bus, target)
        assert resident(process) - before < GROWTH_MIB
        assert process.child.poll() is None
        assert "Traceback" not in process.log.read_text()


@contextmanager
def one_daemon(
    tmp_path: Path, request: pytest.FixtureRequest, which: str
) -> Iterator[tuple[Process, str, tuple[str, str, str]]]:
    """Run the agent or the coordinator on a bus that forbids nothing."""
    if which == "updated":
        bench: Bench = request.getfixturevalue("bench")
        assert bench.machine.updated is not None
        yield bench.machine.updated, bench.bus, AGENT
        return
    with LockdHost(tmp_path / "h", "web1", 'strategy = "reboot"\n') as host:
        host.start()
        assert host.lockd is not None
        yield host.lockd, host.env["LOCKD_BUS_ADDRESS"], LOCKD


@pytest.mark.parametrize("kind", ["signal", "call"])
def test_flood_leaves_the_daemon_its_turns(bench: Bench, kind: str) -> None:
    """While strangers send as fast as the bus takes it, a person is answered, and the daemon goes on with its work."""
    bench.publish("1.1.0")
    before = resident(bench.machine.updated)
    strangers = [start("flood", bench.bus, 0, *AGENT, "Status", kind) for _ in range(2)]
    try:
        for stranger in strangers:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == b"begun\n"
        for _ in range(3):
            answers(bench.bus, AGENT)
        assert bench.update().returncode == 0  # a check, an install, a change of the boot loader's data
        assert all(stranger.poll() is None for stranger in strangers), "the flood ended by itself"
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.communicate()
    assert bench.machine.slots()["B"]["bootable"]
    assert resident(bench.machine.updated) - before < 3 * GROWTH_MIB  # an install's own, too


def test_readers_of_the_slots_dont_keep_the_writer_out(bench: Bench) -> None:
    """A stranger who has the slots read without end is served one reading at a time, with rests; an install gets in."""
    bench.publish("1.1.0")
    stranger = start("flood", bench.bus, 0, *AGENT, "Slots", "call")
    try:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"begun\n"
        assert bench.update().returncode == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()
    slots = json.loads(bench.machine.ctl("slots", "--json").stdout)
    assert [slot["bootable"] for slot in slots] == [True, True]


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED HERE: what another user may send; only root can become one")
@pytest.mark.parametrize("target", [AGENT, ("com.coreos.update1", *AGENT[1:]), LOCKD], ids=lambda value: value[0])
async def test_policy_lets_nobody_send_signals_to_a_daemon(tmp_path: Path, target: tuple[str, str, str]) -> None:
    """On the system bus a signal that another user sends straight to a daemon of ours doesn't arrive."""
    with system_bus(tmp_path) as address:
        owner = await connect(address)
        await owner.request_name(target[0])
        seen: list[str] = []
        owner._raw.listens = lambda head: bool(seen.append(head.member))
        command = [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "dbus-send",
            f"--bus={address}",
        ]
        for name in (target[0], owner._raw.unique_name):
            done = await asyncio.to_thread(
                subprocess.run,
                [*command, f"--dest={name}", "/x", "x.Y.Evil"],
                capture_output=True,
                check=False,
                timeout=60,
            )
            assert done.returncode in (0, 1)
        error = await asyncio.to_thread(send, address, NOBODY, target[0], "org.freedesktop.DBus.Peer.Ping", ())
        assert error == ""  # it came after the signals, and was answered
        assert "Evil" not in seen
        assert (await asyncio.to_thread(send, address, NOBODY, target[0], "x.Y.Evil", ())) == DENIED
        await owner.close()


async def test_error_over_dbus_carries_its_parts(bench: Bench) -> None:
    """An error's answer has a sentence for any program, then code, name, message, hint and whether it was refused."""
    bus = await connect(bench.bus)
    with pytest.raises(BusCallError) as caught:
        await bus.call(*AGENT, "ApplyUrl", "s", ["ftp://x/y"])
    told = caught.value.told
    assert told is not None
    assert (told.code, told.name, told.refused) == (254, "usage", True)
    assert caught.value.name == "org.updated.Error.Usage"
    assert caught.value.text == f"{told.message}. {told.hint}"
    await bus.close()


def test_command_exits_and_shows_as_the_daemon_meant(bench: Bench) -> None:
    """A daemon that can't find its slots is shown as that, with exit 1 and its own hint, not as busy."""
    assert bench.machine.updated is not None
    with bench.machine.disk.open("r+b") as disk:
        kept = disk.read(1024 * 1024)
        disk.seek(0)
        disk.write(bytes(1024 * 1024))
        disk.seek(-1024 * 64, os.SEEK_END)
        tail = disk.read()
        disk.seek(-1024 * 64, os.SEEK_END)
        disk.write(bytes(1024 * 64))
    try:
        bus = bench.bus
        with pytest.raises(BusCallError) as caught:
            asyncio.run(call_slots(bus))
        told = caught.value.told
        assert told is not None
        assert (told.name, told.refused) == ("gpt-invalid", False)
    finally:
        with bench.machine.disk.open("r+b") as disk:
            disk.write(kept)
            disk.seek(-1024 * 64, os.SEEK_END)
            disk.write(tail)


async def call_slots(address: str) -> None:
    bus = await connect(address)
    try:
        await bus.call(*AGENT, "Slots")
    finally:
        await bus.close()


def test_refused_method_leaves_no_traceback(bench: Bench) -> None:
    """Calls that are refused, unknown or wrong leave no traceback in the log, and nobody is told of our insides."""
    assert bench.machine.updated is not None
    told = ""
    for call, *arguments in (
        (f"{AGENT[2]}.ApplyUrl", "string:ftp://x/y"),
        (f"{AGENT[2]}.Apply", "string:x"),
        (f"{AGENT[2]}.Nonsense",),
        ("org.freedesktop.DBus.Properties.Get", f"string:{AGENT[2]}", "string:X"),
        ("org.freedesktop.DBus.Properties.Set", f"string:{AGENT[2]}", "string:X", "variant:int32:1"),
    ):
        done = subprocess.run(
            ["dbus-send", f"--bus={bench.bus}", "--print-reply", f"--dest={AGENT[0]}", AGENT[1], call, *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        told += done.stderr
    log = bench.machine.updated.log.read_text()
    assert "Traceback" not in log + told
    assert ".py" not in log + told


def test_status_is_answered_while_the_daemon_waits_for_a_bus_that_reads_nothing(bench: Bench) -> None:
    """A stranger who asks and never reads is dropped by the bus, not waited for by the daemon."""
    name, path, interface = AGENT
    line = join(bench.bus)
    line.setblocking(False)
    once = message(CALL, name, path, interface, "Status")
    sent, deadline = 0, time.monotonic() + 20
    while sent < 3000 and time.monotonic() < deadline:
        try:
            line.send(once)
            sent += 1
        except BlockingIOError:
            break  # the bus holds back who doesn't read
    answers(bench.bus, AGENT)
    assert run_tool("update-ctl", "status", env=bench.machine.env).returncode == 0
    line.close()
