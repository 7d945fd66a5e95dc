"""UKIs for tests: small PE files written by Microsoft's description, and real ones that objcopy makes of a stub."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

STUBS = Path("/usr/lib/systemd/boot/efi")
PE_AT, ALIGNMENT = 0x80, 512


def make_pe(sections: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PE file of these sections, names and contents, each filled up to 512 bytes in the file."""
    head = bytearray(b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", PE_AT)).ljust(PE_AT, b"\0")
    head += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 112, 0x22) + bytes(112)
    at, table, body = -(-(len(head) + 40 * len(sections)) // ALIGNMENT) * ALIGNMENT, b"", b""
    for name, content in sections:
        raw = content.ljust(-(-len(content) // ALIGNMENT) * ALIGNMENT, b"\0")
        table += struct.pack("<8sIIII16x", name, len(content), 0x1000 + len(body), len(raw), at + len(body))
        body += raw
    return bytes(head + table).ljust(at, b"\0") + body


def make_uki(command_line: str | None, *more: tuple[bytes, bytes]) -> bytes:
    """Return a small UKI: a kernel of a few bytes, an initrd, and a command line if there is to be one."""
    line = [] if command_line is None else [(b".cmdline", command_line.encode() + b"\0")]
    return make_pe(
        [(b".osrel", b"ID=test\n"), *line, (b".linux", b"kernel" * 200), (b".initrd", b"initrd" * 99), *more]
    )


def make_real_uki(folder: Path, out: Path, parts: dict[str, bytes]) -> Path:
    """Put sections into systemd's own stub, as ukify and dracut do, with objcopy."""
    command, at = ["objcopy"], 0x2000000
    for name, content in parts.items():
        part = folder / f"part{name}"
        part.write_bytes(content)
        command += ["--add-section", f"{name}={part}", "--change-section-vma", f"{name}={at:#x}"]
        at += 0x1000000
    (stub,) = STUBS.glob("linux*.efi.stub")
    subprocess.run([*command, str(stub), str(out)], check=True, capture_output=True)
    return out
