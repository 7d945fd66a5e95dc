"""Text and numbers that others wrote (pure): bounded and printable before they are kept, logged or shown."""

from __future__ import annotations

MESSAGE_LENGTH = 1000  # characters of an error's sentence, whatever went into it
REPLACEMENT = "?"


def printable(text: str, most: int = MESSAGE_LENGTH) -> str:
    """Return one line of at most `most` characters that does nothing to a terminal, a log or a D-Bus message.

    What no terminal shows (control characters, escapes, marks that turn the direction of writing, halves of surrogate
    pairs) becomes `?`; the end of a longer text becomes `...`.
    """
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return cut if cut.isprintable() else "".join(char if char.isprintable() else REPLACEMENT for char in cut)


def decimal(text: str, most: int) -> int | None:
    """Return a number of ASCII digits from 0 to `most`; None for anything else, however long it is.

    Digits of other scripts are none: a server that writes them is not understood by anybody else.
    """
    if not 0 < len(text) <= len(str(most)) or not (text.isascii() and text.isdecimal()):
        return None
    number = int(text)
    return number if number <= most else None


def last_lines(text: str, count: int, width: int) -> tuple[str, ...]:
    """Return the last `count` lines that have anything in them, printable, each cut to `width` characters."""
    lines = [line.strip() for line in text.splitlines()]
    return tuple(printable(line[:width]) for line in [line for line in lines if line][-count:])
