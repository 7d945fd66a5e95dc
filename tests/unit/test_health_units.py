"""What follows from systemd's word on a unit: well, on its way, or lost (pure)."""

from __future__ import annotations

import pytest

from updated.confirm.units import Standing, Unit, read_units, sentence

ACTIVE = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success"}


def unit(**changes: str) -> Unit:
    values = {"Id": "x.service", **ACTIVE, "ConditionResult": "yes", "ExecMainStatus": "0"} | changes
    (made,) = read_units("".join(f"{key}={value}\n" for key, value in values.items()))
    return made


@pytest.mark.parametrize(
    ("changes", "standing", "says"),
    [
        ({}, Standing.WELL, "active (running)"),
        ({"ActiveState": "reloading"}, Standing.WELL, "reloading (running)"),
        ({"ActiveState": "activating", "SubState": "start"}, Standing.WAITING, "activating (start)"),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, Standing.WAITING, "activating (auto-restart)"),
        ({"ActiveState": "inactive", "Job": "12"}, Standing.WAITING, "inactive (its start is queued)"),
        ({"ActiveState": "inactive"}, Standing.IDLE, "inactive"),
        (
            {"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "5"},
            Standing.IDLE,
            "inactive (a condition of it isn't met)",
        ),
        (
            {"ActiveState": "inactive", "ConditionResult": "no", "Job": "12"},
            Standing.WAITING,
            "inactive (its start is queued)",
        ),
        ({"ActiveState": "inactive", "ConditionResult": "no"}, Standing.IDLE, "inactive"),
        (
            {"ActiveState": "inactive", "Type": "oneshot"},
            Standing.IDLE,
            "inactive (a oneshot service stays active only with RemainAfterExit=yes)",
        ),
        (
            {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "3"},
            Standing.LOST,
            "failed (exit-code 3)",
        ),
        ({"ActiveState": "failed", "Result": "timeout", "ExecMainStatus": "15"}, Standing.LOST, "failed (timeout)"),
        ({"ActiveState": "failed", "Result": "oom-kill", "Job": "7"}, Standing.WAITING, "failed (oom-kill)"),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, Standing.LOST, "not-found"),
        ({"LoadState": "masked", "ActiveState": "inactive"}, Standing.LOST, "masked"),
        ({"LoadState": "masked"}, Standing.WELL, "masked"),
    ],
)
def test_standing_of_a_unit(changes: dict[str, str], standing: Standing, says: str) -> None:
    """Active is well; a job or a start under way may still help; failed, masked and unknown units never come up."""
    assert (unit(**changes).standing, unit(**changes).state) == (standing, says)


def test_units_are_read_in_the_order_in_which_systemctl_prints_their_properties() -> None:
    """A name may come after other properties, as it does for services, and a value may have an equals sign."""
    text = (
        "Id=boot-complete.target\nRequires=sysinit.target check.service\nBindsTo=check.service a\\x3d.device\n\n"
        "Type=oneshot\nResult=exit-code\nId=check.service\nRequires=a=b.service\n"
    )
    target, check = read_units(text)
    assert (target.name, target.needs) == ("boot-complete.target", ("sysinit.target", "check.service", "a\\x3d.device"))
    assert (check.name, check.type, check.needs) == ("check.service", "oneshot", ("a=b.service",))
    assert read_units("") == ()


def test_sentence_names_the_unit_that_failed() -> None:
    """Where a requirement failed the sentence has both names and how that one ended."""
    target = unit(Id="boot-complete.target", ActiveState="inactive")
    check = unit(Id="check.service", ActiveState="failed", Result="exit-code", ExecMainStatus="3")
    assert sentence(target, check) == (
        "unit boot-complete.target is inactive, for it needs check.service, which is failed (exit-code 3)"
    )
    assert sentence(check, check) == "unit check.service is failed (exit-code 3)"
