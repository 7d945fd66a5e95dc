"""The store of strategy `fleetlock`: a lock manager has the slots, a small file has what this host knows of its own.

The file is `store_local`'s, with one ticket at most. A slot is asked for before the file says so, and given back
before the file forgets it; both may be repeated at the lock manager, so a cut in between does no harm. As long as there
is no file (a new host, or one that was moved over from Zincati), nobody knows whether the lock manager counts this host
as down; so it is taken for one that comes back from a reboot, and gives its slot back once it is healthy.
"""

from __future__ import annotations

from pathlib import Path

from lockd.errors import ErrorCode, RefusedError
from lockd.fleetlock_client import FleetLockClient
from lockd.store_local import LocalStore
from lockd.tickets import Claim, Group, GroupSettings, Phase, Ticket

UNKNOWN = "unknown"


class FleetLockStore(LocalStore):
    """This host's ticket, backed by a slot of the lock manager's."""

    def __init__(self, path: Path, client: FleetLockClient, machine_id: str) -> None:
        super().__init__(path)
        self._client = client
        self._machine_id = machine_id

    async def read(self) -> Group:
        """Read the file; at the very first time, assume that the lock manager holds a slot for this host."""
        group = await super().read()
        if group.revision == 0:
            detail = "nobody knows yet whether the lock manager holds a slot for this host"
            claim = Claim(self._machine_id, Phase.REBOOTING, UNKNOWN, version_to=UNKNOWN, detail=detail)
            group = await super().enqueue(claim)
        return group

    async def enqueue(self, claim: Claim) -> Group:
        """Remember that this host wants a slot.

        Raises:
            RefusedError: NO_TICKETS; it is for another host.
        """
        if claim.machine_id != self._machine_id:
            raise _elsewhere("a host asks for slots for itself only")
        return await super().enqueue(claim)

    async def grant(self, seen: Group, ticket: Ticket, claim: Claim) -> Ticket | None:
        """Ask the lock manager, each time anew, and write down its yes.

        Raises:
            LockdError: the lock manager says no, or nothing.
        """
        await self._client.lock()
        return await super().grant(seen, ticket, claim)

    async def remove(self, ticket: Ticket) -> bool:
        """Give the slot back, and forget it.

        Raises:
            LockdError: the lock manager says no, or nothing: it is tried again, and the ticket stays until then.
        """
        if not await super().keep(ticket):
            return False
        await self._client.unlock()
        return await super().remove(ticket)

    async def put_settings(self, seen: Group, settings: GroupSettings) -> bool:
        """Pause or resume this host.

        Raises:
            RefusedError: NO_TICKETS; how many may be down is the lock manager's to say.
        """
        if settings.max != seen.settings.max:
            raise _elsewhere("how many may be down at once is set at the lock manager")
        return await super().put_settings(seen, settings)

    async def close(self) -> None:
        """Close the connections to the lock manager."""
        await self._client.close()
        await super().close()


def _elsewhere(why: str) -> RefusedError:
    return RefusedError(
        ErrorCode.NO_TICKETS, f"strategy fleetlock: {why}", hint="Do it at the lock manager, or on that host."
    )
