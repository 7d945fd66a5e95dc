"""What systemd says of the units that a good boot needs, and what follows from it (pure).

A unit that isn't active may only be on its way. It never will be, as far as this boot goes, once it has failed and no
job is queued for it, or once a unit that it requires has: systemd cancels the job of a unit whose requirement failed,
and starts neither again by itself. `systemctl show` tells all of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "Result", "Job", "Type", "ConditionResult",
    "ConditionTimestampMonotonic", "ExecMainStatus", "InvocationID", "Requires", "Requisite", "BindsTo",
)  # fmt: skip
ACTIVE = frozenset({"active", "reloading", "refreshing"})
UNUSABLE = frozenset({"not-found", "bad-setting", "error", "masked"})


class Standing(Enum):
    """How a unit stands."""

    WELL = "well"
    WAITING = "waiting"  # it may still become active
    LOST = "lost"  # it won't, as far as this boot goes
    IDLE = "idle"  # it isn't active, and no job is queued that would make it so


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit as systemd has it."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    result: str
    type: str
    has_job: bool
    condition: bool  # its conditions were met when they were looked at last, or never were looked at
    exit_status: str
    invocation: str  # the id of its last run, which its lines in the journal have; empty when it never ran
    needs: tuple[str, ...]  # the units without which it can't start

    @property
    def standing(self) -> Standing:
        """How it stands by itself, its requirements aside."""
        if self.active_state in ACTIVE:
            return Standing.WELL
        if self.load_state in UNUSABLE:
            return Standing.LOST
        if self.has_job or self.active_state in ("activating", "deactivating", "maintenance"):
            return Standing.WAITING
        return Standing.LOST if self.active_state == "failed" else Standing.IDLE

    @property
    def state(self) -> str:
        """What people read after `unit NAME is`."""
        if self.load_state in UNUSABLE:
            return self.load_state
        if self.active_state == "failed":
            status = f" {self.exit_status}" if self.result == "exit-code" and self.exit_status else ""
            return f"failed ({self.result}{status})"
        if self.active_state == "inactive":
            return f"inactive{self._why_inactive()}"
        return f"{self.active_state} ({self.sub_state})"

    def _why_inactive(self) -> str:
        if self.has_job:
            return " (its start is queued)"
        if not self.condition:
            return " (a condition of it isn't met)"
        if self.type == "oneshot" and self.result == "success":
            return " (a oneshot service stays active only with RemainAfterExit=yes)"
        return ""


def read_units(text: str) -> tuple[Unit, ...]:
    """Read what `systemctl show` printed of PROPERTIES for several units: an empty line stands between two of them."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return tuple(_unit(dict(line.split("=", 1) for line in block if "=" in line)) for block in blocks if block)


def _unit(values: Mapping[str, str]) -> Unit:
    needs = [name for key in ("Requires", "Requisite", "BindsTo") for name in values.get(key, "").split()]
    return Unit(
        name=values.get("Id", ""),
        load_state=values.get("LoadState", ""),
        active_state=values.get("ActiveState", ""),
        sub_state=values.get("SubState", ""),
        result=values.get("Result", ""),
        type=values.get("Type", ""),
        has_job=values.get("Job", "") not in ("", "0"),
        condition=values.get("ConditionResult") != "no" or values.get("ConditionTimestampMonotonic", "0") == "0",
        exit_status=values.get("ExecMainStatus", ""),
        invocation=values.get("InvocationID", ""),
        needs=tuple(dict.fromkeys(needs)),
    )


def sentence(required: Unit, culprit: Unit) -> str:
    """Return what is wrong: the unit itself, or one that it needs."""
    if culprit.name == required.name:
        return f"unit {required.name} is {required.state}"
    return f"unit {required.name} is {required.state}, for it needs {culprit.name}, which is {culprit.state}"
