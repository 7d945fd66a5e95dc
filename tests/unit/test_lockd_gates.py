"""The chain of gates, and what lockd believes of the update agent."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Any

import pytest

from lockd.agent import AgentView, Rollback, read_status, rolled_back_since
from lockd.gates import Blocker, Facts, Need, State, TicketStand, closed_gate, look, may_ask_for_ticket
from lockd.tickets import Claim, Phase
from lockd.windows import Window
from lockd.windows import look as look_at_windows

NOW = datetime(2026, 5, 5, 2, 30, tzinfo=UTC)
OPEN = look_at_windows([Window(time(2), 3600, UTC)], NOW)
CLOSED = look_at_windows([Window(time(5), 3600, UTC)], NOW)
ALL_OPEN = Facts(NOW, Need(True, True, "update"), "etcd", (), OPEN, 300.0, TicketStand(True, "has the slot"))


def blocking(facts: Facts) -> str | None:
    gate = closed_gate(look(facts))
    return gate.gate if gate else None


def test_all_gates_open_let_the_reboot_through() -> None:
    """When nothing blocks, every gate is open."""
    assert blocking(ALL_OPEN) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"need": Need(False, True, "agent is gone")}, "need"),
        ({"need": Need(True, False, "nothing to do")}, "need"),
        ({"strategy": "off"}, "strategy"),
        ({"strategy": "best-effort"}, "strategy"),
        ({"strategy": ""}, "strategy"),
        ({"blockers": (Blocker("hold", "backup", "it ends"),)}, "blockers"),
        ({"outlook": CLOSED}, "window"),
        ({"min_remaining_secs": 1801.0}, "window"),
        ({"ticket": None}, "ticket"),
        ({"ticket": TicketStand(False, "full")}, "ticket"),
    ],
)
def test_each_gate_blocks_by_itself(change: dict[str, Any], expected: str) -> None:
    """One closed gate is enough, whatever the others say, and says what would open it."""
    facts = replace(ALL_OPEN, **change)
    assert blocking(facts) == expected


def test_no_gate_behind_a_closed_one_is_asked() -> None:
    """The ticket isn't asked for while an earlier gate is closed."""
    facts = replace(ALL_OPEN, outlook=CLOSED)
    assert [gate.state for gate in look(facts)] == [State.OPEN] * 3 + [State.CLOSED, State.NOT_ASKED]
    assert not may_ask_for_ticket(facts)
    assert may_ask_for_ticket(replace(ALL_OPEN, ticket=None))


def test_remaining_time_counts_to_the_second() -> None:
    """Exactly enough time left in the window is enough."""
    assert blocking(replace(ALL_OPEN, min_remaining_secs=1800.0)) is None


def test_strategy_reboot_needs_no_ticket() -> None:
    """Without a semaphore the ticket gate is open."""
    assert blocking(replace(ALL_OPEN, strategy="reboot", ticket=None)) is None


# ---- the agent's word

STATUS = {"boot_confirmed": True, "boot_id": "now", "rolled_back": None, "version_booted": "1.0"}


def read(**changes: Any) -> AgentView:
    return read_status(json.dumps(STATUS | changes), need_reboot=False, version_new="", boot_id="now")


def test_health_is_what_the_agent_says_of_this_boot() -> None:
    """A confirmed boot is healthy, one that isn't confirmed isn't."""
    assert read().healthy is True
    assert read(boot_confirmed=False).healthy is False


def test_health_of_another_boot_is_not_believed() -> None:
    """An agent that speaks of an earlier boot tells nothing about this one."""
    assert read(boot_id="before").healthy is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"boot_confirmed": 1, "boot_id": "now", "rolled_back": null}', "[" * 100_000,
     '{"boot_confirmed": true, "boot_id": "now", "rolled_back": "yes"}',
     '{"boot_confirmed": true, "boot_id": "now", "rolled_back": {}}'],
)  # fmt: skip
def test_status_that_is_not_understood_is_an_error(text: str) -> None:
    """No health is read into a document that isn't the agent's."""
    with pytest.raises(ValueError, match=r"isn't understood|Expecting"):
        read_status(text, need_reboot=False, version_new="", boot_id="now")


@pytest.mark.parametrize(
    ("rollback", "version_to", "expected"),
    [
        (None, "2.0", False),
        (Rollback("2.0", "now"), "2.0", True),
        (Rollback("2.0", "between"), "2.0", True),
        (Rollback("2.0", "before"), "2.0", False),  # an old story: noticed before this ticket's reboot
        (Rollback("1.9", "now"), "2.0", False),
        (Rollback("2.0", "now"), "", True),
    ],
)
def test_rollback_belongs_to_the_reboot_it_followed(rollback: Rollback | None, version_to: str, expected: bool) -> None:
    """Only a rollback of the version that the ticket was for, noticed after its reboot, counts against it."""
    claim = Claim("m1", Phase.REBOOTING, "before", version_to=version_to)
    assert rolled_back_since(AgentView(rollback=rollback), claim) is expected
