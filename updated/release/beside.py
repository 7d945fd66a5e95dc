"""Files that are there whole or not at all: written beside their place, renamed in the end, removed on any failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from updated.errors import ErrorCode, LocalError


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a name beside `path`; what is written there takes its place, unless the context is left by an error.

    Raises:
        LocalError: USAGE; `path` is no name for a file. A device (/dev/null!) would be replaced, not written.
        OSError: what was written can't be renamed.
    """
    if not path.name or (path.exists() and not path.is_file()):
        raise LocalError(ErrorCode.USAGE, f"{path} is no file that could be written", hint="Name a file with --out.")
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is what is reported
            part.unlink()
        raise
