"""Figures that tests record and a run prints at its end: counts are summed, names gathered, over all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

PROPERTY = "figures"


def note(record_property: Callable[[str, object], None], title: str, **figures: int | list[str]) -> None:
    """Record what a test found, and print it."""
    record_property(PROPERTY, [title, figures])
    print(line(title, figures))


def line(title: str, figures: dict[str, Any]) -> str:
    """Return a line for people."""
    counts = [f"{value} {name.replace('_', ' ')}" for name, value in figures.items() if isinstance(value, int)]
    names = [name for value in figures.values() if not isinstance(value, int) for name in value]
    return f"{title}: {', '.join(counts)}" + (f" ({'; '.join(names)})" if names else "")


def gather(properties: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the lines for all tests' properties."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in properties:
        if name != PROPERTY:
            continue
        title, figures = value
        sums = found.setdefault(title, {})
        for key, figure in figures.items():
            sums[key] = sums[key] + figure if key in sums else figure
    return [line(title, figures) for title, figures in found.items()]
