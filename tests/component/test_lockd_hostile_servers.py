"""A hostile etcd, Prometheus or lock manager, or whoever is on the line: lockd stays within its memory, and up."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import brotli
import pytest

from tests.support.lockd_host import LockdHost
from tests.support.processes import Process, run_tool
from tests.support.raw_server import RawServer

UNIT = Path(__file__).parents[2] / "systemd/lockd.service"
MIB = 2**20


def memory_max() -> int:
    """Return the MiB that the unit allows."""
    found = re.search(r"^MemoryMax=(\d+)M$", UNIT.read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def peak(process: Process | None) -> int:
    """Return the most that a process ever had in memory, in MiB."""
    assert process is not None
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process.child.pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) // 1024


def http(body: bytes, *, coding: str = "") -> list[bytes]:
    label = f"Content-Encoding: {coding}\r\n" if coding else ""
    return [f"HTTP/1.1 200 OK\r\n{label}Content-Length: {len(body)}\r\n\r\n".encode(), body]


def filled(head: bytes, piece: bytes, tail: bytes, size: int) -> bytes:
    return head + piece * ((size - len(head) - len(tail)) // len(piece)) + tail


TXN = b'{"header":{"revision":"1"},"succeeded":true,"responses":['
ANSWERS = {  # about 16 MiB and 8 MiB: over and just below the most that is read
    "empty objects": lambda size: filled(TXN, b"{},", b"{}]}", size),
    "small objects": lambda size: filled(TXN, b'{"a":0},', b"{}]}", size),
    "empty lists": lambda size: filled(TXN, b"[],", b"[]]}", size),
    "numbers": lambda size: filled(TXN, b"1e9,", b"1]}", size),
    "different keys": lambda size: TXN + b"{" + b",".join(b'"%x":0' % number for number in range(size // 10)) + b"}]}",
    "one wide character": lambda size: filled(TXN + b'"', b"x", '\U0001f600"]}'.encode(), size),
    "a long text": lambda size: filled(TXN + b'"', b"x", b'"]}', size),
    "escapes": lambda size: filled(TXN + b'"', rb"\ud83d\ude00", b'"]}', size),
    "nesting": lambda size: b"[" * size,
}


@pytest.mark.parametrize("shape", ANSWERS)
def test_large_answer_of_etcd_stays_within_the_units_memory(tmp_path: Path, shape: str) -> None:
    """However an answer of 16 MiB, or of 8, is made up, lockd's memory stays below its unit's, and nobody reboots."""
    bodies = [ANSWERS[shape](size) for size in (16 * MIB, 8 * MIB - 100)]
    asked = 0

    def answer(_head: bytes) -> Iterator[bytes]:
        nonlocal asked
        asked += 1
        yield from http(bodies[asked % 2])

    with RawServer(answer) as evil:
        policy = f'strategy = "etcd"\nreboot_retry_secs = 60\n[etcd]\nendpoints = ["{evil.url}"]\n'
        with LockdHost(tmp_path / "h", "web1", policy) as host:
            host.start()
            host.need_reboot("2.0.0")
            for _look in range(2):
                run_tool("lockctl", "reboot", env=host.env)  # looks at once
            assert asked >= 2
            print(f"lockd's peak: {peak(host.lockd)} MiB of {memory_max()}")
            assert peak(host.lockd) < memory_max()
            assert not host.reboot_file.exists()
            assert host.lockd is not None
            assert host.lockd.child.poll() is None


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_packed_answer_of_prometheus_stays_within_the_units_memory(tmp_path: Path, coding: str) -> None:
    """A few kilobytes that unpack to gigabytes are refused unopened, and hold the reboot back with that reason."""
    if coding == "br":
        packer = brotli.Compressor(quality=9, lgwin=24)
        body = b"".join(packer.process(bytes(2**24)) for _ in range(75)) + packer.finish()
    else:
        body = gzip.compress(bytes(60 * MIB), 9)
    assert len(body) < 100_000
    with RawServer(lambda _head: http(body, coding=coding)) as evil:
        policy = f'strategy = "reboot"\n[alerts]\nurl = "{evil.url}"\n'
        with LockdHost(tmp_path / "h", "web1", policy) as host:
            host.start()
            host.need_reboot("2.0.0")
            gate = host.wait_gate("blockers")
            assert "packed" in gate["reason"]
            assert peak(host.lockd) < memory_max()
            assert not host.reboot_file.exists()


def test_endless_answer_of_a_lock_manager_is_no_yes(tmp_path: Path) -> None:
    """A refusal that never ends is cut at what is shown of it; the host stays up."""
    endless = RawServer(lambda _head: [b"HTTP/1.1 423 Locked\r\n\r\n", *repeat(b"\x1b[2Jno" * 1000, 20_000)])
    with endless as evil:
        policy = f'strategy = "fleetlock"\n[fleetlock]\nbase_url = "{evil.url}/"\nid = "{"0a" * 16}"\n'
        with LockdHost(tmp_path / "h", "web1", policy) as host:
            host.start()
            host.need_reboot("2.0.0")
            gate = host.wait_gate("ticket")
            assert gate["reason"].isprintable()
            assert peak(host.lockd) < memory_max()
            assert not host.reboot_file.exists()


SECRETS = {
    "etcd.endpoints": 'strategy = "etcd"\n[etcd]\nendpoints = ["http://127.0.0.1:1", "http://bob:hush@127.0.0.1:1"]\n',
    "alerts.url": 'strategy = "reboot"\n[alerts]\nurl = "http://bob:hush@127.0.0.1:1"\n',
    "fleetlock.base_url": 'strategy = "fleetlock"\n[fleetlock]\nbase_url = "http://bob:hush@127.0.0.1:1/"\n',
}


@pytest.mark.parametrize("key", SECRETS)
def test_password_in_a_url_of_the_policy_is_refused_and_never_shown(tmp_path: Path, key: str) -> None:
    """The daemon and lockctl refuse a user or a password in any URL, name the setting, and don't repeat the value."""
    (tmp_path / "boot_id").write_text("0b7d1c6e-0000-4000-8000-000000000001\n")
    policy = tmp_path / "lockd.toml"
    policy.write_text(
        f'machine_id = "m"\nboot_id_file = "{tmp_path}/boot_id"\nstate_dir = "{tmp_path}/s"\n{SECRETS[key]}'
    )
    for name, *arguments in (("lockd",), ("lockctl", "windows"), ("lockctl", "status"), ("lockctl", "explain")):
        done = run_tool(name, *arguments, env={"LOCKD_CONFIG": str(policy)})
        assert done.returncode != 0
        assert key in done.stderr
        assert "hush" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_password_in_an_endpoint_of_the_environment_is_refused(tmp_path: Path) -> None:
    """LOCKD_ENDPOINTS and locksmith's variables are no place for a password either."""
    for name in ("LOCKD_ENDPOINTS", "LOCKSMITHD_ENDPOINT"):
        done = run_tool("lockctl", "status", "--json", env={name: "http://bob:hush@127.0.0.1:1"})
        assert done.returncode != 0
        assert "hush" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_secret_settings_are_the_only_ones_hidden(tmp_path: Path) -> None:
    """`config show` hides both passwords of the agent's settings wherever they come from."""
    config = tmp_path / "updated.toml"
    config.write_text('[server]\nproxy_password = "hush"\n[download]\npassword = "hush"\nuser = "fleet"\n')
    done = run_tool("update-ctl", "config", "show", "--json", env={"UPDATED_CONFIG": str(config)})
    assert "hush" not in done.stdout
    assert json.dumps("fleet") in done.stdout
