"""What every command shares: exit codes, error reports, tables, colour, and a parser with an example."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn, TextIO

from updated.common import journal
from updated.common.errors import OperatorError


class Exit(IntEnum):
    """Exit codes of all commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    CONFIG = 78  # of the daemons (sysexits.h's EX_CONFIG): it stays so until a person acts, and no restart helps


def product_version() -> str:
    """Return the installed product's version, or `unknown` when it runs from a bare tree."""
    try:
        return version("updated")
    except PackageNotFoundError:
        return "unknown"


def parser(prog: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return an argument parser that shows an example in --help and knows --version."""
    made = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"{prog} {product_version()}")
    return made


def report(error: OperatorError) -> None:
    """Print an error and what to do about it on stderr."""
    report_text(error.message, error.name, error.hint)


def report_text(message: str, name: str, hint: str) -> None:
    """Print an error that arrived as text, in the same form."""
    mark = (
        "<3>" if journal.is_journal(2, os.environ.get("JOURNAL_STREAM", "")) else ""
    )  # its priority, see sd-daemon(3)
    print(f"{mark}error: {message} [{name}]", file=sys.stderr)
    print(f"{mark}what to do: {hint}", file=sys.stderr)


def print_json(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print a value as indented JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def use_colour(stream: TextIO) -> bool:
    """Tell whether to colour what goes to `stream`: a terminal, and NO_COLOR is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Lay out rows in columns as wide as their widest cell, two spaces apart."""
    lines = [list(header)] if header else []
    lines += [list(row) for row in rows]
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def human_bytes(count: float) -> str:
    """Write a number of bytes with a binary unit, `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":  # noqa: PLR2004 - the step between binary units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def run(main: Callable[[], int], *, exit_code: Callable[[OperatorError], Exit]) -> NoReturn:
    """Run a command's body and leave with its exit code; a known error is reported, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path that isn't UTF-8 goes out as it came in
    try:
        code = main()
        sys.stdout.flush()
    except OperatorError as error:
        report(error)
        code = exit_code(error)
    except KeyboardInterrupt:
        code = 130  # as shells count an interrupt
    except BrokenPipeError:
        code = Exit.FAILED  # the reader went away (`| head`)
    except OSError as error:  # what no command has an answer of its own to: a path that can't be, a full disk
        what = error.strerror or str(error)
        report_text(f"{error.filename}: {what}" if error.filename else what, "state", "Look at paths and free space.")
        code = Exit.FAILED
    _flush_or_drop()
    sys.exit(code)


def _flush_or_drop() -> None:
    """Point stdout at nothing where it takes nothing, so that Python's own flush at exit stays quiet."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
