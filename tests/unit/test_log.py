"""What the daemons log: fields with a priority to the journal, plain lines elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from updated.common import cli, journal, log

MESSAGE_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def on_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """Standard error as systemd leaves it, and the path at which the journal listens."""
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    monkeypatch.setattr(journal, "SOCKET", tmp_path / "socket")
    return tmp_path / "socket"


def decode(data: bytes) -> dict[str, str]:
    """Read an entry as the journal's protocol has it."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, size = line, int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


def test_journal_gets_priority_id_and_each_fact(on_journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry has the line as text, its priority, its message id, and each key as a field of its own, newlines too."""
    monkeypatch.setattr("sys.argv", ["/usr/bin/updated"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(on_journal))
        log.configure("info")
        log.get_logger("agent").error("failed", message_id=MESSAGE_ID, code="state", message="two\nlines", left=None)
        fields = decode(server.recv(65536))
    assert fields.pop("MESSAGE") == "level=error room=agent event=failed code=state message=two\\nlines left="
    assert fields == {
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "updated",
        "MESSAGE_ID": MESSAGE_ID,
        "UPDATED_EVENT": "failed",
        "UPDATED_LEVEL": "error",
        "UPDATED_ROOM": "agent",
        "UPDATED_CODE": "state",
        "UPDATED_MESSAGE": "two\nlines",
    }


def test_line_is_not_lost_while_no_journal_listens(on_journal: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where nobody listens the line goes to standard error, with the priority as sd-daemon(3) has it."""
    log.configure("info")
    log.get_logger("agent").warning("odd", message_id=MESSAGE_ID)
    assert capfd.readouterr().err == "<4>level=warning room=agent event=odd\n"


def test_last_words_have_a_priority_in_the_journal_only(on_journal: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The error that ends a daemon is one to the journal too; a person reads it without a mark."""
    cli.report_text("it is broken", "state", "Repair it.")
    os.environ["JOURNAL_STREAM"] = "1:1"
    cli.report_text("it is broken", "state", "Repair it.")
    assert capfd.readouterr().err.splitlines() == [
        "<3>error: it is broken [state]",
        "<3>what to do: Repair it.",
        "error: it is broken [state]",
        "what to do: Repair it.",
    ]


def test_plain_lines_elsewhere(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error that isn't the journal gets key=value lines, without priority and id."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    log.configure("info")
    log.get_logger("agent").info("ready", message_id=MESSAGE_ID, slot="A")
    assert capfd.readouterr().err == "level=info room=agent event=ready slot=A\n"


@pytest.mark.parametrize(
    ("key", "name"), [("slot", "LOCKD_SLOT"), ("a-b.c", "LOCKD_A_B_C"), ("x" * 80, "LOCKD_" + "X" * 58)]
)
def test_field_names_are_ones_that_the_journal_takes(key: str, name: str) -> None:
    """Whatever a key is called, its field has capitals, digits and underscores, 64 at most."""
    assert journal.field_name(key, "lockd") == name
