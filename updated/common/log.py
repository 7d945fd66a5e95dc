"""Structured log lines on stderr: for people on a terminal, one key=value line each under systemd."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}


def configure(level: str = "info") -> None:
    """Send what is logged at `level` (debug, info, warning, error) and above to stderr.

    Raises:
        ValueError: the level's name isn't known.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    on_terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if on_terminal
        else structlog.processors.LogfmtRenderer(key_order=["level", "room", "event"], bool_as_flag=False)
    )
    stamp: list[structlog.typing.Processor] = (
        [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)] if on_terminal else []  # the journal stamps
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *stamp,
            structlog.processors.EventRenamer("event"),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(room: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry the name of the room that wrote them."""
    return cast("FilteringBoundLogger", structlog.get_logger(room=room))
