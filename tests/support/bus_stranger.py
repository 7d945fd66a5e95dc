"""A local user on a bus without a library's manners: sends whatever bytes it likes, and may not read."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALL, SIGNAL, NO_REPLY = 1, 4, 1


def padded(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def message(  # noqa: PLR0917 - the parts of a message
    kind: int, destination: str, path: str, interface: str, member: str, signature: bytes = b"", body: bytes = b"",
    *, serial: int = 7, flags: int = 0, claimed: int | None = None,
) -> bytes:  # fmt: skip
    """Return a message, little-endian; `claimed` bytes of body are told, whatever there is."""
    fields = b""
    for code, kind_of, text in ((1, b"o", path), (2, b"s", interface), (3, b"s", member), (6, b"s", destination)):
        value = text.encode()
        fields = padded(fields, 8) + bytes([code, 1]) + kind_of + b"\0"
        fields += struct.pack("<I", len(value)) + value + b"\0"
    if signature:
        fields = padded(fields, 8) + bytes([8, 1]) + b"g\0" + bytes([len(signature)]) + signature + b"\0"
    size = len(body) if claimed is None else claimed
    head = struct.pack("<BBBBIII", ord("l"), kind, flags, 1, size, serial, len(fields)) + fields
    return padded(head, 8) + body


def array(items: bytes) -> bytes:
    return struct.pack("<I", len(items)) + items


def join(address: str) -> socket.socket:
    """Connect to a bus and say hello."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(address.split("path=")[1].split(",", maxsplit=1)[0])
    line.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
    line.recv(200)
    line.sendall(b"BEGIN\r\n")
    daemon = "org.freedesktop.DBus"
    line.sendall(message(CALL, daemon, "/org/freedesktop/DBus", daemon, "Hello"))
    line.recv(4000)
    return line


def become(uid: int) -> None:
    if os.getuid() == 0 and uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def start(how: str, address: str, uid: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a stranger of its own process, which goes on until it is killed; `how` is a function below."""
    command = [sys.executable, "-m", "tests.support.bus_stranger", how, address, str(uid), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def flood(line: socket.socket, destination: str, path: str, interface: str, member: str, kind: str) -> None:
    """Send the same message over and over, and read no answer."""
    number = {"call": CALL, "signal": SIGNAL}[kind]
    body, signature = (array(b"\1y\0\7" * 500), b"av") if number == SIGNAL else (b"", b"")
    once = message(number, destination, path, interface, member, signature, body, flags=NO_REPLY)
    line.sendall(once)
    print("begun", flush=True)
    many = once * max(1, 65536 // len(once))
    while True:
        line.sendall(many)


def main(arguments: Sequence[str]) -> None:
    how, address, uid, *rest = arguments
    become(int(uid))
    {"flood": flood}[how](join(address), *rest)


if __name__ == "__main__":
    main(sys.argv[1:])
