"""Tells the journal of the steps on the way to a reboot and back, with the versions that they are about."""

from __future__ import annotations

from lockd import message_ids
from lockd.agent import AgentView
from lockd.tickets import Claim, Group, Phase, Ticket
from updated.common.log import get_logger

logger = get_logger("coordinator")


def tell_reboot(seen: AgentView, version_to: str, group: str) -> None:
    """The reboot is asked for now."""
    logger.info(
        "reboot-begins", message_id=message_ids.REBOOT_BEGINS, group=group, version_from=seen.version_booted,
        version_to=version_to or seen.version_booted, slot=seen.slot_booted,
    )  # fmt: skip


def tell_taken(before: Group | None, ticket: Ticket, group: str) -> None:
    """This host has a slot, if it didn't have one before."""
    own = before.of(ticket.machine_id) if before else None
    if ticket.claim.phase is not Phase.HELD or (own is not None and own.holds):
        return
    claim = ticket.claim
    logger.info(
        "ticket-taken", message_id=message_ids.TICKET_TAKEN, group=group, ticket=ticket.machine_id,
        version_from=claim.version_from, version_to=claim.version_to,
    )  # fmt: skip


def tell_released(claim: Claim, seen: AgentView, group: str) -> None:
    """The slot of the last reboot is given back."""
    logger.info(
        "ticket-released", message_id=message_ids.TICKET_RELEASED, group=group, since=claim.since,
        version_from=claim.version_from, version_to=claim.version_to, version=seen.version_booted,
    )  # fmt: skip


def tell_rolled_back(ticket: Ticket, seen: AgentView, reason: str, group: str) -> None:
    """The host came back with the old version: it keeps its slot, and its group is paused."""
    logger.error(
        "rolled-back", message_id=message_ids.ROLLED_BACK, group=group, ticket=ticket.machine_id, reason=reason,
        version_to=ticket.claim.version_to, version=seen.version_booted, paused=True,
    )  # fmt: skip
