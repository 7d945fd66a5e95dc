"""What lockd sees of the update agent, on D-Bus: is a reboot needed, and is this boot healthy.

The need comes from update_engine's interface, which `updated` speaks too; health and rollbacks come from `updated`'s
own. What isn't understood counts as not known, and nothing is released or rebooted on that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lockd.tickets import Claim
from updated.common.bus import Bus, BusCallError, BusError

ENGINE = ("com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager")
AGENT = ("org.updated.Agent1", "/org/updated/Agent1", "org.updated.Agent1.Manager")
NEED_REBOOT = "UPDATE_STATUS_UPDATED_NEED_REBOOT"
STATUS_VALUES = 5  # last check, progress, operation, new version, new size


@dataclass(frozen=True, slots=True)
class Rollback:
    """A version that was tried and left again."""

    version: str
    boot_id: str  # the boot in which it was noticed


@dataclass(frozen=True, slots=True)
class AgentView:
    """One look at the agent; `problem` says why something isn't known."""

    known: bool = False
    need_reboot: bool = False
    version_new: str = ""
    version_booted: str = ""
    healthy: bool | None = None  # of this boot; None: not known
    rollback: Rollback | None = None
    problem: str = ""
    slot_booted: str = ""
    slot_target: str = ""


class AgentClient:
    """Asks the agent, and listens to it."""

    def __init__(self, bus: Bus, boot_id: str) -> None:
        self._bus = bus
        self._boot_id = boot_id

    async def look(self) -> AgentView:
        """Return what the agent says now; it never raises for an agent that isn't there or talks nonsense."""
        try:
            status = await self._bus.call(*ENGINE, "GetStatus")
        except (BusCallError, BusError) as error:
            return AgentView(problem=f"the update agent can't be asked: {error}")
        if len(status) != STATUS_VALUES or not all(isinstance(status[place], str) for place in (2, 3)):
            return AgentView(problem="the update agent's GetStatus isn't understood")
        need = status[2] == NEED_REBOOT
        try:
            (text,) = await self._bus.call(*AGENT, "Status")
            return read_status(text, need_reboot=need, version_new=status[3], boot_id=self._boot_id)
        except (BusCallError, BusError, ValueError) as error:
            problem = f"the update agent doesn't tell whether this boot is healthy: {error}"
            return AgentView(known=True, need_reboot=need, version_new=status[3], problem=problem)

    async def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever the agent announces something.

        Raises:
            BusCallError: the bus refused.
        """
        for (name, path, interface), member in ((ENGINE, "StatusUpdate"), (AGENT, "StatusChanged")):
            await self._bus.subscribe(
                sender=name, path=path, interface=interface, member=member, handler=lambda _body: wake()
            )


def read_status(text: str, *, need_reboot: bool, version_new: str, boot_id: str) -> AgentView:
    """Read the agent's status document; its word on health counts for the boot that it was given for only.

    Raises:
        ValueError: it isn't the document that the agent promises.
    """
    try:
        document = json.loads(text)
        confirmed, its_boot, rolled_back = (document[key] for key in ("boot_confirmed", "boot_id", "rolled_back"))
        if not isinstance(confirmed, bool):
            raise TypeError(f"boot_confirmed is {confirmed!r}")
        rollback = None if rolled_back is None else _rollback(rolled_back, boot_id)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"its status isn't understood ({error!r})") from error
    same_boot = its_boot == boot_id
    return AgentView(
        known=True,
        need_reboot=need_reboot,
        version_new=version_new,
        version_booted=str(document.get("version_booted") or ""),
        healthy=confirmed if same_boot else None,
        rollback=rollback,
        problem="" if same_boot else "the update agent speaks of another boot",
        slot_booted=str(document.get("slot_booted") or ""),
        slot_target=str(document.get("slot_target") or ""),
    )


def rolled_back_since(view: AgentView, claim: Claim) -> bool:
    """Tell whether the reboot that `claim` stands for ended in the old version.

    A rollback that was noticed before that reboot, or of another version, isn't meant.
    """
    rollback = view.rollback
    if rollback is None or rollback.boot_id == claim.boot_id:
        return False
    return not claim.version_to or rollback.version == claim.version_to


def _rollback(value: dict[str, Any], boot_id: str) -> Rollback:
    return Rollback(str(value["version"]), str(value.get("boot_id") or boot_id))
