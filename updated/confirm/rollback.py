"""What a boot means, given what was armed before it (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Pending:
    """An armed slot that has not been confirmed yet."""

    version_from: str
    version_to: str
    slot: str
    partuuid: str
    rollback_index: int
    boot_id: str  # of the boot in which it was armed
    armed_at: str  # RFC 3339
    armed: bool = False  # false until the boot loader's data are known to be written
    by_hand: str | None = None  # where a person's payload came from; None when the server offered it
    rollback: bool = False  # a person wants the old slot back, which booted well before


class Boot(Enum):
    """What kind of boot this is."""

    SAME = "same"  # the one in which the slot was armed: the reboot is still to come
    TRIAL = "trial"  # the armed slot came up and is to prove itself
    ROLLED_BACK = "rolled-back"  # another slot came up: the boot loader gave the armed one up
    INTERRUPTED = "interrupted"  # the agent was cut off while it armed the slot
    PLAIN = "plain"  # nothing was armed


def classify_boot(pending: Pending | None, boot_id: str, booted_partuuid: str, *, tries_spent: bool) -> Boot:
    """Tell what kind of boot this is.

    Args:
        pending: what the agent remembers to have armed, or begun to.
        boot_id: of this boot.
        booted_partuuid: the partition that this boot runs from.
        tries_spent: whether the boot loader's data show the other slot as tried and given up. It tells a rollback
            from an arming that was cut off before it was remembered as done.
    """
    if pending is None:
        return Boot.PLAIN
    if pending.partuuid == booted_partuuid:
        return Boot.TRIAL
    if pending.boot_id == boot_id:
        return Boot.SAME if pending.armed else Boot.INTERRUPTED
    return Boot.ROLLED_BACK if pending.armed or tries_spent else Boot.INTERRUPTED


def may_fall_back(*, trial: bool, booted_successful: bool, other_bootable: bool, other_successful: bool) -> bool:
    """Tell whether a bad boot can be left for the other slot: this one is on trial, and that one has proven itself.

    A slot is on trial when the agent remembers that, though somebody else may have marked it as good by now (systemd
    blesses an entry of systemd-boot's by itself); or when the boot loader's data say so, for the state may be lost.
    """
    return (trial or not booted_successful) and other_bootable and other_successful


def fall_back_retry_secs(attempts: int) -> float:
    """Return how long to wait for a reboot that was asked for `attempts` times already, before it is asked for again.

    The first wait is longer than a shutdown takes; from then on it doubles up to half an hour.
    """
    return min(120.0 * 2.0 ** min(max(attempts - 1, 0), 8), 1800.0)


def raised_floor(floor: int, confirmed_index: int) -> int:
    """Return the rollback floor after a release with `confirmed_index` booted well: it only rises."""
    return max(floor, confirmed_index)
