"""What a boot means, given what was armed before it."""

from __future__ import annotations

import itertools

import pytest

from updated.confirm.rollback import Boot, Pending, classify_boot, raised_floor

ARMED_IN, LATER = "boot-1", "boot-2"
NEW, OLD = "uuid-new", "uuid-old"


def pending(*, armed: bool) -> Pending:
    return Pending("1.0", "1.1", "B", NEW, 7, ARMED_IN, "2026-01-01T00:00:00Z", armed)


@pytest.mark.parametrize(
    ("armed", "boot_id", "booted", "spent", "expected"),
    [
        (True, ARMED_IN, OLD, False, Boot.SAME),
        (True, LATER, NEW, False, Boot.TRIAL),
        (True, LATER, OLD, True, Boot.ROLLED_BACK),
        (True, LATER, OLD, False, Boot.ROLLED_BACK),
        (False, ARMED_IN, OLD, False, Boot.INTERRUPTED),
        (False, LATER, OLD, False, Boot.INTERRUPTED),
        (False, LATER, NEW, False, Boot.TRIAL),
        (False, LATER, OLD, True, Boot.ROLLED_BACK),
    ],
)
def test_boot_is_classified(armed: bool, boot_id: str, booted: str, spent: bool, expected: Boot) -> None:
    """Each combination of what was armed and what came up has one meaning."""
    assert classify_boot(pending(armed=armed), boot_id, booted, tries_spent=spent) is expected


def test_nothing_armed_is_a_plain_boot() -> None:
    """Without a pending update every boot is plain."""
    assert classify_boot(None, LATER, OLD, tries_spent=True) is Boot.PLAIN


def test_armed_slot_that_came_up_is_never_taken_for_anything_but_a_trial() -> None:
    """Whatever else is remembered, a new slot that runs must prove itself."""
    for armed, boot_id, spent in itertools.product((True, False), (ARMED_IN, LATER), (True, False)):
        assert classify_boot(pending(armed=armed), boot_id, NEW, tries_spent=spent) is Boot.TRIAL


def test_floor_only_rises() -> None:
    """A release with a lower index doesn't lower the floor."""
    assert raised_floor(5, 3) == 5
    assert raised_floor(5, 9) == 9
