"""The order of versions (pure): numbers by value, a pre-release before its release, as semantic versioning has it."""

from __future__ import annotations

import re

PART = re.compile(r"[0-9]+|[a-zA-Z]+")
Parts = tuple[tuple[int, int, str], ...]


def version_key(version: str) -> tuple[Parts, tuple[int, ...], Parts]:
    """Return a sortable key: `1.10 > 1.9`, `1.0-rc1 < 1.0`, `1.0 == 1.0.0`; what follows a `+` doesn't count."""
    release, _, pre = version.split("+", 1)[0].partition("-")
    parts = list(_parts(release))
    while parts and parts[-1] == (1, 0, ""):
        parts.pop()
    return (tuple(parts), (0,) if pre else (1,), tuple(_parts(pre)))


def _parts(text: str) -> list[tuple[int, int, str]]:
    """Return numbers and words; a number is compared as its digits, for it may have more than Python converts."""
    found = []
    for part in PART.findall(text):
        digits = part.lstrip("0")
        found.append((1, len(digits), digits) if part.isdecimal() else (0, 0, part.lower()))
    return found


def compare(a: str, b: str) -> int:
    """Return -1, 0 or 1 as `a` is older than, equal to, or newer than `b`."""
    left, right = version_key(a), version_key(b)
    return (left > right) - (left < right)
