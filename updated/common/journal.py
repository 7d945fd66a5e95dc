"""One entry for systemd's journal, in its native protocol (JOURNAL_NATIVE_PROTOCOL): one datagram, `NAME=value` lines.

Standard error reaches the journal too, but only as text: priorities and message ids need fields.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
NAME_LIMIT = 64  # characters of a field's name
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)


def is_journal(fd: int, journal_stream: str) -> bool:
    """Tell whether a file descriptor is connected to the journal.

    Args:
        fd: an open file descriptor.
        journal_stream: what systemd put into JOURNAL_STREAM, `DEVICE:INODE` of the stream that it opened.
    """
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return journal_stream == f"{found.st_dev}:{found.st_ino}"


def field_name(key: str, prefix: str) -> str:
    """Return a key as the journal takes names of fields: capitals, digits and `_`, not longer than 64."""
    return re.sub(r"[^A-Z0-9_]", "_", f"{prefix}_{key}".upper()).lstrip("_")[:NAME_LIMIT]


def encode(fields: Mapping[str, str]) -> bytes:
    """Write fields as a datagram; a value with a newline in it goes with its length, 8 bytes, little endian."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="replace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def send(fields: Mapping[str, str]) -> None:
    """Send one entry.

    Raises:
        OSError: no journal listens there, or the entry is too large for a datagram.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(encode(fields), str(SOCKET))
