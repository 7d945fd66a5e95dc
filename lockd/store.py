"""Where a group's tickets are: the verbs that every store has, and the store in etcd.

Keys: `PREFIX/groups/GROUP/settings` and `PREFIX/groups/GROUP/tickets/MACHINE-ID`. Every write is conditional on the
revisions that the caller saw, so it happens once or not at all, however often it is sent and however late it arrives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from lockd import etcd_codec as codec
from lockd.errors import ErrorCode, RefusedError
from lockd.etcd import EtcdClient
from lockd.tickets import (
    Claim,
    DamagedError,
    Group,
    GroupSettings,
    Ticket,
    decode_claim,
    decode_settings,
    encode_claim,
    encode_settings,
    watched_by,
)


class Store(Protocol):
    """The tickets and settings of one group."""

    async def read(self) -> Group:
        """Return one consistent, linearizable look at the group.

        Raises:
            LockdError: the store can't be reached, or holds what can't be understood.
        """
        ...

    async def enqueue(self, claim: Claim) -> Group:
        """Add a waiting ticket at the end of the queue, unless the host has one; return the group after that."""
        ...

    async def grant(self, seen: Group, ticket: Ticket, claim: Claim) -> Ticket | None:
        """Replace a ticket, for good, if neither it nor the settings changed since `seen`; None when they did."""
        ...

    async def amend(self, ticket: Ticket, claim: Claim) -> bool:
        """Replace a ticket, for good, if it didn't change; False when it did."""
        ...

    async def remove(self, ticket: Ticket) -> bool:
        """Take a ticket away if it is still this one; False when it isn't there any more."""
        ...

    async def put_settings(self, seen: Group, settings: GroupSettings) -> bool:
        """Replace the group's settings if they didn't change since `seen`; False when they did."""
        ...

    async def keep(self, ticket: Ticket) -> bool:
        """Keep a waiting ticket alive; False when it is gone. Call at least every third of `ttl_secs`."""
        ...

    async def wait_turn(self, seen: Group, ticket: Ticket, timeout_secs: float) -> None:
        """Return when something changed since `seen` that may let `ticket` go on, or after the time."""
        ...

    @property
    def ttl_secs(self) -> float:
        """How long a waiting ticket lives without `keep`."""
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...


class EtcdStore:
    """A group's tickets in etcd."""

    def __init__(self, client: EtcdClient, *, prefix: str, group: str, lease_ttl_secs: int) -> None:
        self._client = client
        self._group_key = f"{prefix}/groups/{group}"
        self._settings_key = f"{self._group_key}/settings"
        self._tickets_key = f"{self._group_key}/tickets/"
        self._ttl_secs = lease_ttl_secs
        self._look = (codec.read(self._settings_key), codec.read_prefix(self._tickets_key))

    @property
    def ttl_secs(self) -> float:
        """How long a waiting ticket lives without `keep`."""
        return float(self._ttl_secs)

    async def read(self) -> Group:
        """Read settings and tickets in one transaction.

        Raises:
            RemoteError: etcd can't be reached, or its answer makes no sense.
            RefusedError: the settings' document is damaged, or etcd doesn't let us in.
        """
        return self._group(await self._client.read(self._look))

    def _group(self, answer: codec.TxnAnswer) -> Group:
        settings, tickets = answer.ranges
        return Group(
            settings=self._parse_settings(settings),
            tickets=tuple(
                sorted((self._parse_ticket(pair) for pair in tickets), key=lambda ticket: ticket.create_revision)
            ),
            revision=answer.revision,
        )

    async def enqueue(self, claim: Claim) -> Group:
        """Make a lease and a ticket on it, and look at the group in the same transaction."""
        lease = await self._client.grant_lease(self._ttl_secs)
        key = self._key(claim.machine_id)
        put = codec.put(key, encode_claim(claim), lease)
        return self._group(await self._client.txn([codec.compare(key, "CREATE", 0)], [put, *self._look], self._look))

    async def grant(self, seen: Group, ticket: Ticket, claim: Claim) -> Ticket | None:
        """Replace a ticket without a lease: from now on nothing but its owner or an operator takes it away."""
        key = self._key(ticket.machine_id)
        answer = await self._client.txn(
            [
                codec.compare(key, "CREATE", ticket.create_revision),
                codec.compare(key, "MOD", ticket.mod_revision),
                codec.compare(self._settings_key, "MOD", seen.settings.revision),
            ],
            [codec.put(key, encode_claim(claim))],
        )
        return Ticket(claim, ticket.create_revision, answer.revision) if answer.succeeded else None

    async def amend(self, ticket: Ticket, claim: Claim) -> bool:
        """Replace a ticket whatever the settings are."""
        key = self._key(ticket.machine_id)
        answer = await self._client.txn(
            [codec.compare(key, "MOD", ticket.mod_revision)], [codec.put(key, encode_claim(claim))]
        )
        return answer.succeeded

    async def remove(self, ticket: Ticket) -> bool:
        """Delete the key."""
        key = self._key(ticket.machine_id)
        answer = await self._client.txn([codec.compare(key, "MOD", ticket.mod_revision)], [codec.delete(key)])
        return answer.succeeded

    async def put_settings(self, seen: Group, settings: GroupSettings) -> bool:
        """Write the settings' document."""
        answer = await self._client.txn(
            [codec.compare(self._settings_key, "MOD", seen.settings.revision)],
            [codec.put(self._settings_key, encode_settings(settings))],
        )
        return answer.succeeded

    async def keep(self, ticket: Ticket) -> bool:
        """Renew the lease that the ticket is on."""
        return ticket.lease == 0 or await self._client.keep_lease(ticket.lease)

    async def wait_turn(self, seen: Group, ticket: Ticket, timeout_secs: float) -> None:
        """Watch the next waiter ahead, or, as the first waiter, everybody who leaves."""
        ahead, start = watched_by(seen, ticket), seen.revision + 1
        if ahead is not None:
            request = codec.watch(self._key(ahead), start_revision=start, deletes_only=False)
        else:
            end = codec.prefix_end(self._tickets_key)
            request = codec.watch(self._tickets_key, range_end=end, start_revision=start, deletes_only=True)
        await self._client.watch(request, timeout_secs)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _key(self, machine_id: str) -> str:
        return f"{self._tickets_key}{machine_id}"

    def _parse_ticket(self, pair: codec.KeyValue) -> Ticket:
        claim = decode_claim(pair.key.removeprefix(self._tickets_key), pair.value)
        ticket = Ticket(claim, pair.create_revision, pair.mod_revision, pair.lease)
        if not ticket.holds and ticket.lease == 0:  # a waiter that would never leave the queue isn't one of ours
            damaged = decode_claim(claim.machine_id, b"a waiting ticket without a lease")
            return replace(ticket, claim=damaged)
        return ticket

    def _parse_settings(self, pairs: tuple[codec.KeyValue, ...]) -> GroupSettings:
        if not pairs:
            return GroupSettings()
        try:
            return decode_settings(pairs[0].value, pairs[0].mod_revision)
        except DamagedError as error:
            raise damaged_settings(self._settings_key, error) from error


def damaged_settings(where: str, error: DamagedError) -> RefusedError:
    """Return the refusal that a group's unreadable settings mean."""
    return RefusedError(
        ErrorCode.SETTINGS_DAMAGED,
        f"the group's settings in {where} are damaged: {error}",
        hint="Nobody is granted a slot until they are right: remove the key, then `lockctl set-max N`.",
    )
