"""Which entry systemd-boot boots: the order of its menu, whose first entry is the default (pure).

After systemd-boot(7) and the Boot Loader Specification, as of systemd 252 and newer: entries without boots left come
last; then those with a sort key before those without; then sort key, machine id, version (newest first) and identity
(last first). Versions are compared after the UAPI group's version format specification.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from updated.slots.boot.bls import EntryName

IGNORED = re.compile(r"[^0-9A-Za-z~^.\-]*")  # in front of a segment
DIGITS, LETTERS = re.compile("[0-9]*"), re.compile("[A-Za-z]*")
MARKS = ("~", "", "-", "^", ".")  # each makes its side older than whatever has none there; the empty one is the end


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the order looks at of an entry; an empty text is a key that isn't there."""

    name: EntryName
    sort_key: str = ""
    machine_id: str = ""
    version: str = ""

    @property
    def exhausted(self) -> bool:
        """Whether its boots are used up."""
        return self.name.left == 0


def in_order(entries: Iterable[Candidate], *, stripped: bool) -> list[Candidate]:
    """Return the entries as the menu has them, the one that boots first.

    Args:
        entries: all of them.
        stripped: whether this boot loader compares names without their counters (257 and newer) or with (252).
    """

    def compare(one: Candidate, other: Candidate) -> int:
        return _compare_keys(one, other) or _compare_names(one.name, other.name, stripped=stripped)

    return sorted(entries, key=functools.cmp_to_key(compare))


def _compare_keys(one: Candidate, other: Candidate) -> int:
    later = ((one.exhausted, other.exhausted), (not one.sort_key, not other.sort_key))
    keys = ((one.sort_key, other.sort_key), (one.machine_id, other.machine_id)) if one.sort_key else ()
    for mine, its in (*later, *keys):
        if mine != its:
            return 1 if mine > its else -1
    return -compare_versions(one.version, other.version) if one.sort_key else 0


def _compare_names(one: EntryName, other: EntryName, *, stripped: bool) -> int:
    mine, its = ((name.identity if stripped else str(name).lower()) for name in (one, other))
    later = compare_versions(mine, its)
    if later or one.left is None or other.left is None:
        return -later
    return other.left - one.left or one.done - other.done


def compare_versions(one: str, other: str) -> int:
    """Return -1, 0 or 1 as a version is older than, equal to or newer than another."""
    while True:
        one, other = (text[_prefix(IGNORED, text) :] for text in (one, other))
        for mark in MARKS:
            if not mark:
                if not one or not other:
                    return bool(one) - bool(other)
            elif one.startswith(mark) != other.startswith(mark):
                return -1 if one.startswith(mark) else 1
            elif one.startswith(mark):
                one, other = one[1:], other[1:]
        kind = DIGITS if one[:1].isdecimal() or other[:1].isdecimal() else LETTERS
        mine, its = one[: _prefix(kind, one)], other[: _prefix(kind, other)]
        result = _compare_segments(mine, its, numeric=kind is DIGITS)
        if result:
            return result
        one, other = one[len(mine) :], other[len(its) :]


def _prefix(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    return found.end() if found else 0


def _compare_segments(one: str, other: str, *, numeric: bool) -> int:
    """Compare the digits or the letters that both begin with; a segment of digits is newer than one that isn't."""
    if not numeric:
        return (one > other) - (one < other)
    if not one or not other:
        return bool(one) - bool(other)
    mine, its = ((len(digits), digits) for digits in (one.lstrip("0"), other.lstrip("0")))
    return (mine > its) - (mine < its)
