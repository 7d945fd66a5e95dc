"""Structured log lines: for people on a terminal, fields with a priority to the journal, else key=value on stderr.

`message_id=` in a call names what happened to programs: 32 hex digits, pinned where the daemon lists them, sent as the
journal's MESSAGE_ID (`journalctl MESSAGE_ID=...`) and part of no text.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog

from updated.common import journal
from updated.common.text import printable

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

VALUE_LENGTH = 2000  # characters of each value of a line
LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}
MESSAGE_ID = "message_id"
LOGFMT = structlog.processors.LogfmtRenderer(key_order=["level", "room", "event"], bool_as_flag=False)


def check_level(level: str) -> None:
    """Check the name of a level.

    Raises:
        ValueError: it isn't known.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")


def configure(level: str = "info") -> None:
    """Send what is logged at `level` (debug, info, warning, error) and above to the journal, or else to stderr.

    Raises:
        ValueError: the level's name isn't known.
    """
    check_level(level)
    to_journal = journal.is_journal(2, os.environ.get("JOURNAL_STREAM", ""))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _make_printable,
            *([_as_fields] if to_journal else _as_text(on_terminal=sys.stderr.isatty())),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_JournalLogger if to_journal else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _make_printable(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Let nothing that a server, a peer or a file said write a line, or to a terminal, of its own."""
    return {key: _bounded(value) for key, value in line.items()}


def _bounded(value: object) -> object:
    """Return a value whose text is bounded and printable; ends of lines stay, for the renderers tell them apart."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    if len(text) <= VALUE_LENGTH and text.isprintable():
        return value
    return "\n".join(map(printable, text[:VALUE_LENGTH].split("\n")))


def get_logger(room: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry the name of the room that wrote them."""
    return cast("FilteringBoundLogger", structlog.get_logger(room=room))


def _as_text(*, on_terminal: bool) -> list[Processor]:
    if on_terminal:
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        return [_without_id, _on_one_line, stamp, structlog.dev.ConsoleRenderer()]
    return [_without_id, LOGFMT]


def _without_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.pop(MESSAGE_ID, None)
    return event


def _on_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Let a value end no line of a terminal, where the next one would look like an event of ours."""
    return {key: value.replace("\n", " ") if isinstance(value, str) else value for key, value in event.items()}


def _as_fields(logger: WrappedLogger, method: str, event: EventDict) -> tuple[tuple[dict[str, str]], dict[str, Any]]:
    """Turn an event into the journal's fields: the line as text, its priority and id, and each key by itself."""
    program = Path(sys.argv[0]).name or "python"
    fields = {"PRIORITY": str(journal.PRIORITIES.get(event["level"], 6)), "SYSLOG_IDENTIFIER": program}
    message_id = event.pop(MESSAGE_ID, None)
    if message_id is not None:
        fields["MESSAGE_ID"] = str(message_id)
    fields |= {journal.field_name(key, program): str(value) for key, value in event.items() if value is not None}
    fields["MESSAGE"] = str(LOGFMT(logger, method, event))
    return ((fields,), {})


class _JournalLogger:
    """Sends entries; while no journal listens they go to stderr, which systemd reads once it is back."""

    def __init__(self, *_factory_arguments: object) -> None:
        pass

    def msg(self, fields: dict[str, str]) -> None:
        """Send one entry."""
        try:
            journal.send(fields)
        except OSError:
            sys.stderr.write(f"<{fields['PRIORITY']}>{fields['MESSAGE']}\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg
