"""One switch between the sample that CI runs and the whole campaign."""

from __future__ import annotations

import os


def scale(sample: int, full: int) -> int:
    """Return `sample`, or `full` when the environment says CAMPAIGN=1 (`make campaign`)."""
    return full if os.environ.get("CAMPAIGN") == "1" else sample


def long_too() -> bool:
    """Whether tests marked `long` take part: LONG=1 (`make e2e`), or the whole campaign."""
    return "1" in (os.environ.get("LONG"), os.environ.get("CAMPAIGN"))
