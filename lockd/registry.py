"""The register of a group's machines in etcd: each describes itself, and says from time to time that it is up.

Keys below `PREFIX/groups/GROUP/`: `machines/MACHINE-ID`, the description, on a lease of `known_days`, and
`up/MACHINE-ID` on one of minutes. So a machine that goes down for hours or days stays known, and one that is gone for
good is forgotten, by etcd's clock and nobody else's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from lockd import etcd_codec as codec
from lockd.errors import LockdError
from lockd.etcd import EtcdClient
from lockd.machines import Known, Machine, decode_machine, encode_machine
from updated.common.clock import Clock, rfc3339
from updated.common.log import get_logger

logger = get_logger("registry")

UP_SECS = 600  # how long a machine counts as up without saying so
TURN_SECS = 60.0  # how soon a change is told
SAY_SECS = UP_SECS / 3  # how often it says that it is up
WRITE_SECS = 3600.0  # how often it writes its description again, with a new `seen`
DAY_SECS = 24 * 3600


@dataclass(frozen=True, slots=True)
class _Leases:
    known: int
    up: int


class Registry:
    """A group's machines in etcd."""

    def __init__(self, client: EtcdClient, *, prefix: str, group: str, known_days: int) -> None:
        self._client = client
        self._machines_key = f"{prefix}/groups/{group}/machines/"
        self._up_key = f"{prefix}/groups/{group}/up/"
        self._known_secs = known_days * DAY_SECS

    async def read(self) -> tuple[Known, ...]:
        """Return every machine that is known, by its id.

        Raises:
            LockdError: etcd can't be reached or understood.
        """
        answer = await self._client.read([codec.read_prefix(self._machines_key), codec.read_prefix(self._up_key)])
        machines, up = answer.ranges
        names = {pair.key.removeprefix(self._up_key) for pair in up}
        found = [decode_machine(pair.key.removeprefix(self._machines_key), pair.value) for pair in machines]
        return tuple(Known(one, one.machine_id in names) for one in sorted(found, key=lambda one: one.machine_id))

    async def lease(self) -> _Leases:
        """Make the two leases of a machine.

        Raises:
            LockdError: etcd can't be reached or understood.
        """
        up = await self._client.grant_lease(UP_SECS)  # first: alone it is gone in minutes
        return _Leases(await self._client.grant_lease(self._known_secs), up)

    async def write(self, machine: Machine, leases: _Leases) -> None:
        """Write a machine's description, and that it is up.

        Raises:
            LockdError: etcd can't be reached or understood, or the leases are gone.
        """
        name = machine.machine_id
        described = codec.put(self._machines_key + name, encode_machine(machine), leases.known)
        await self._client.txn([], [described, codec.put(self._up_key + name, b"", leases.up)])

    async def keep(self, leases: _Leases) -> bool:
        """Say that the machine is up and known; False when one of the leases is gone.

        Raises:
            LockdError: etcd can't be reached or understood.
        """
        return await self._client.keep_lease(leases.up) and await self._client.keep_lease(leases.known)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class Registrar:
    """Keeps this machine's entry true."""

    def __init__(self, registry: Registry, clock: Clock, describe: Callable[[], Machine]) -> None:
        self._registry, self._clock, self._describe = registry, clock, describe
        self._leases: _Leases | None = None
        self._told: Machine | None = None
        self._wrote_at = self._said_at = 0.0  # monotonic
        self._failing = False

    async def run(self) -> None:
        """Go on until cancelled; what fails is tried again at the next turn."""
        while True:
            try:
                await self.turn()
                self._failing = False
            except LockdError as error:
                self._note(error)
            await self._clock.sleep(TURN_SECS)

    def _note(self, error: LockdError) -> None:
        """Tell what failed, once; the leases stay, for new ones each minute would pile up in etcd for weeks."""
        self._said_at = -math.inf  # whether they are still there is asked before they are used again
        log = logger.debug if self._failing else logger.warning
        log("register-failed", error=error.message, hint=error.hint)
        self._failing = True

    async def turn(self) -> None:
        """Write what changed, or say that the machine is up, when it is time.

        Raises:
            LockdError: etcd can't be reached or understood.
        """
        machine, now = self._describe(), self._clock.monotonic()
        if self._leases and now - self._said_at >= SAY_SECS:
            self._said_at = now
            if not await self._registry.keep(self._leases):
                self._leases = None
        if self._leases and machine == self._told and now - self._wrote_at < WRITE_SECS:
            return
        if self._leases is None:
            self._leases, self._told = await self._registry.lease(), None  # until the entry is on them
            self._said_at = now
        await self._registry.write(replace(machine, seen=rfc3339(self._clock.now())), self._leases)
        self._told, self._wrote_at = machine, now
