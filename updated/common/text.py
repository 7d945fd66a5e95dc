"""Text that came from elsewhere, made fit for a log line, a terminal or a state file (pure)."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with a question mark for each character that isn't printable."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def last_lines(text: str, count: int, width: int) -> tuple[str, ...]:
    """Return the last `count` lines that have anything in them, printable, each cut to `width` characters."""
    lines = [line.strip() for line in text.splitlines()]
    return tuple(printable(line[:width]) for line in [line for line in lines if line][-count:])
