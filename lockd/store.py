"""Where a group's tickets are: the verbs that every store has, and the store in etcd.

Keys below `PREFIX/groups/GROUP/`: `settings`; `queue/MACHINE-ID` for who waits, on a lease; `slots/MACHINE-ID` for
who holds, without one; `slots-interval`, which a grant leaves behind for the minimum interval; `unlocks/...`, the
records of forced unlocks. Taking a slot moves the ticket from the queue to the slots in one transaction, with its
number in the queue. So a host reads the few that hold and the front of the queue, however many wait.

To find the front etcd sorts the whole queue, at a cost that grows with it (3.4: 7 ms of its processor at 1,000
waiters, 51 ms at 10,000, 2 ms without). So that is asked for only when it may matter: a holder doesn't need it, nor
does a host far behind as long as the waiter next ahead of it is still there.

Every write is conditional on the revisions that the caller saw, so it happens once or not at all, however often it is
sent and however late it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from lockd import etcd_codec as codec
from lockd.errors import ErrorCode, RefusedError
from lockd.etcd import EtcdClient
from lockd.tickets import (
    NAME,
    Claim,
    DamagedError,
    Group,
    GroupSettings,
    Phase,
    Ticket,
    Unlock,
    decode_claim,
    decode_settings,
    decode_unlock,
    encode_claim,
    encode_settings,
    encode_unlock,
    watched_by,
)

NOBODY = 1  # a horizon below every number that a ticket can have
FRONT = 32  # waiters at the front of the queue that a host looks at: that many can be granted slots at once
NO_LEASE = "a waiting ticket without a lease, which would wait forever"
UNLOCKS_LIMIT = 200  # records of forced unlocks that are kept


class Store(Protocol):
    """The tickets and settings of one group."""

    async def read(self) -> Group:
        """Return one consistent, linearizable look at the whole group, which costs the more the more wait.

        Raises:
            LockdError: the store can't be reached, or holds what can't be understood.
        """
        ...

    async def look(self, machine_id: str) -> Group:
        """Return one consistent, linearizable look at what a host has to see; it may leave out who is behind.

        Raises:
            LockdError: the store can't be reached, or holds what can't be understood.
        """
        ...

    async def enqueue(self, claim: Claim) -> Group:
        """Add a waiting ticket at the end of the queue, unless the host has one; return a look after that."""
        ...

    async def grant(self, seen: Group, ticket: Ticket, claim: Claim) -> Ticket | None:
        """Replace a ticket, for good, if neither it nor the settings changed since `seen`; None when they did."""
        ...

    async def commit(self, seen: Group, ticket: Ticket, claim: Claim) -> Group | None:
        """Replace a holder's ticket as `grant` does; return a look at settings and holders right after that."""
        ...

    async def amend(self, ticket: Ticket, claim: Claim) -> bool:
        """Replace a holder's ticket, for good, if it didn't change; False when it did."""
        ...

    async def remove(self, ticket: Ticket) -> bool:
        """Take a ticket away if it is still this one; False when it isn't there any more."""
        ...

    async def unlock(self, ticket: Ticket, record: Unlock) -> bool:
        """Take a ticket away like `remove`, and keep a record of it."""
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
        group_key = f"{prefix}/groups/{group}/"
        self._settings_key = f"{group_key}settings"
        self._queue_key = f"{group_key}queue/"
        self._slots_key = f"{group_key}slots/"
        self._interval_key = f"{group_key}slots-interval"  # right before the slots, so that one watch covers both
        self._unlocks_key = f"{group_key}unlocks/"
        self._ttl_secs = lease_ttl_secs
        self._numbers: dict[str, int] = {}  # of tickets in the queue, as far as we know
        self._ahead: dict[str, tuple[Ticket, int]] = {}  # of hosts far behind: who is next ahead, how many wait in all

    @property
    def ttl_secs(self) -> float:
        """How long a waiting ticket lives without `keep`."""
        return float(self._ttl_secs)

    async def read(self) -> Group:
        """Read everything in one transaction.

        Raises:
            RemoteError: etcd can't be reached, or its answer makes no sense.
            RefusedError: the settings' document is damaged, or etcd doesn't let us in.
        """
        asked = (codec.read_prefix(self._queue_key), codec.read_prefix(self._unlocks_key))
        answer = await self._client.read([*self._always(), *asked])
        waiting = [self._parse_ticket(pair) for pair in answer.ranges[3]]
        unlocks = tuple(decode_unlock(pair.value) for pair in reversed(answer.ranges[4]))
        return replace(self._group(answer, waiting), queued=len(waiting), unlocks=unlocks)

    async def look(self, machine_id: str) -> Group:
        """Read settings, slots, what concerns one host, and the front of the queue if it may, in one transaction.

        Raises:
            RemoteError: etcd can't be reached, or its answer makes no sense.
            RefusedError: the settings' document is damaged, or etcd doesn't let us in.
        """
        number, ahead = self._numbers.get(machine_id, 0), self._ahead.get(machine_id)
        near, own = self._near_operations(machine_id, number), codec.read(self._queue_key + machine_id)
        if ahead is not None:
            waiter, queued = ahead
            still_there = codec.compare(self._key(waiter), "CREATE", waiter.create_revision)
            answer = await self._client.txn([still_there], [*self._always(), own], near)
            if answer.succeeded:
                return self._narrow(answer, machine_id, waiter, queued=queued)
        else:
            no_slot = codec.compare(self._slots_key + machine_id, "CREATE", 0)
            answer = await self._client.txn([no_slot], near, [*self._always(), own])
            if not answer.succeeded:
                return self._narrow(answer, machine_id)
        return await self._whole(self._near(answer, machine_id), machine_id, number)

    def _narrow(self, answer: codec.TxnAnswer, machine_id: str, *waiting: Ticket, queued: int = 0) -> Group:
        """Return a look that doesn't reach the queue, but for a host's own ticket and what is known already."""
        own = [self._parse_ticket(pair) for pair in answer.ranges[3]]
        if not own:
            self._forget(machine_id)
        return replace(self._group(answer, [*waiting, *own]), horizon=NOBODY, queued=queued)

    def _forget(self, machine_id: str) -> None:
        self._numbers.pop(machine_id, None)
        self._ahead.pop(machine_id, None)

    async def enqueue(self, claim: Claim) -> Group:
        """Make a lease and a ticket on it, and look in the same transaction."""
        name, lease = claim.machine_id, await self._client.grant_lease(self._ttl_secs)
        looks = self._near_operations(name, 0)
        answer = await self._client.txn(
            [codec.compare(self._queue_key + name, "CREATE", 0), codec.compare(self._slots_key + name, "CREATE", 0)],
            [codec.put(self._queue_key + name, encode_claim(claim), lease), *looks],
            looks,
        )
        return await self._whole(self._near(answer, name), name, answer.revision if answer.succeeded else 0)

    async def _whole(self, group: Group, machine_id: str, number: int) -> Group:
        """Look again if the host's number in the queue wasn't known, for then the one ahead of it couldn't be read."""
        own = group.of(machine_id)
        self._forget(machine_id)
        if own is None or own.holds:
            return group
        self._numbers[machine_id] = own.create_revision
        if group.sees(own):
            return group
        if own.create_revision != number:
            return await self.look(machine_id)
        ahead = watched_by(group, own)
        waiter = group.of(ahead) if ahead else None
        if waiter is not None:
            self._ahead[machine_id] = waiter, group.queued
        return group

    async def grant(self, seen: Group, ticket: Ticket, claim: Claim) -> Ticket | None:
        """Replace a ticket without a lease: from now on nothing but its owner or an operator takes it away."""
        key, slot = self._key(ticket), self._slots_key + ticket.machine_id
        claim = replace(claim, number=ticket.create_revision)
        compares = [
            codec.compare(key, "MOD", ticket.mod_revision),
            codec.compare(self._settings_key, "MOD", seen.settings.revision),
        ]
        operations = [codec.put(slot, encode_claim(claim))]
        if ticket.in_queue:
            compares += [codec.compare(key, "CREATE", ticket.create_revision), codec.compare(slot, "CREATE", 0)]
            operations.append(codec.delete(key))
        if ticket.in_queue and seen.settings.min_interval_secs:
            lease = await self._client.grant_lease(seen.settings.min_interval_secs)
            compares.append(codec.compare(self._interval_key, "CREATE", 0))
            operations.append(codec.put(self._interval_key, claim.machine_id.encode(), lease))
        answer = await self._client.txn(compares, operations)
        return Ticket(claim, ticket.create_revision, answer.revision) if answer.succeeded else None

    async def commit(self, seen: Group, ticket: Ticket, claim: Claim) -> Group | None:
        """Replace a holder's ticket, and look in the same transaction."""
        key, claim = self._key(ticket), replace(claim, number=ticket.create_revision)
        compares = [
            codec.compare(key, "MOD", ticket.mod_revision),
            codec.compare(self._settings_key, "MOD", seen.settings.revision),
        ]
        answer = await self._client.txn(compares, [codec.put(key, encode_claim(claim)), *self._always()])
        return replace(self._group(answer, ()), horizon=NOBODY) if answer.succeeded else None

    async def amend(self, ticket: Ticket, claim: Claim) -> bool:
        """Replace a holder's ticket without a lease, whatever the settings are."""
        claim = replace(claim, number=ticket.create_revision)
        return await self._if_same(ticket, codec.put(self._key(ticket), encode_claim(claim)))

    async def remove(self, ticket: Ticket) -> bool:
        """Delete the key."""
        return await self._if_same(ticket, codec.delete(self._key(ticket)))

    async def unlock(self, ticket: Ticket, record: Unlock) -> bool:
        """Delete the key and write the record, over the oldest record if there are too many."""
        records = await self._client.read([codec.read_first(self._unlocks_key, 1)])
        operations = [
            codec.delete(self._key(ticket)),
            codec.put(f"{self._unlocks_key}{record.at}-{ticket.mod_revision}", encode_unlock(record)),
        ]
        if records.counts[0] >= UNLOCKS_LIMIT:
            operations.append(codec.delete(records.ranges[0][0].key))
        return await self._if_same(ticket, *operations)

    async def put_settings(self, seen: Group, settings: GroupSettings) -> bool:
        """Write the settings' document; an interval that runs and was longer ends when the new one would."""
        compares = [codec.compare(self._settings_key, "MOD", seen.settings.revision)]
        operations = [codec.put(self._settings_key, encode_settings(settings))]
        if settings.min_interval_secs < seen.settings.min_interval_secs:
            if not seen.recent:  # nor may one have begun meanwhile
                compares.append(codec.compare(self._interval_key, "CREATE", 0))
            elif not settings.min_interval_secs:
                operations.append(codec.delete(self._interval_key))
            else:  # from now on: how long ago the last grant was nobody knows
                lease = await self._client.grant_lease(settings.min_interval_secs)
                operations.append(codec.put(self._interval_key, seen.recent.encode(), lease))
        answer = await self._client.txn(compares, operations)
        return answer.succeeded

    async def keep(self, ticket: Ticket) -> bool:
        """Renew the lease that the ticket is on."""
        return ticket.lease == 0 or await self._client.keep_lease(ticket.lease)

    async def wait_turn(self, seen: Group, ticket: Ticket, timeout_secs: float) -> None:
        """Watch the next waiter ahead, or, as the first waiter, every holder who leaves."""
        ahead, start = watched_by(seen, ticket), seen.revision + 1
        if ahead is not None:
            request = codec.watch(self._queue_key + ahead, start_revision=start, deletes_only=True)
        else:
            end = codec.prefix_end(self._slots_key)
            request = codec.watch(self._interval_key, range_end=end, start_revision=start, deletes_only=True)
        await self._client.watch(request, timeout_secs)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    # ---- keys and values

    def _always(self) -> Sequence[codec.Json]:
        return codec.read(self._settings_key), codec.read_prefix(self._slots_key), codec.read(self._interval_key)

    def _near_operations(self, machine_id: str, number: int) -> Sequence[codec.Json]:
        """Ask for what `_near` takes apart; of the youngest two one is the host's own if it just joined."""
        return [
            *self._always(),
            codec.read(self._queue_key + machine_id),
            codec.read_first(self._queue_key, FRONT),
            codec.read_last(self._queue_key, 1 if number else 2, before=number),
        ]

    def _near(self, answer: codec.TxnAnswer, machine_id: str) -> Group:
        own, front, ahead = answer.ranges[3:6]
        waiting = {pair.key: self._named(pair) for pair in (*ahead, *front) if pair.key != self._queue_key + machine_id}
        waiting |= {pair.key: self._parse_ticket(pair) for pair in own}
        count = answer.counts[4]
        horizon = front[-1].create_revision if count > len(front) else 0
        return replace(self._group(answer, waiting.values()), horizon=horizon, queued=count)

    def _group(self, answer: codec.TxnAnswer, waiting: Iterable[Ticket]) -> Group:
        settings, slots, interval = answer.ranges[:3]
        tickets = [*map(self._parse_ticket, slots), *waiting]
        return Group(
            settings=self._parse_settings(settings),
            tickets=tuple(sorted(tickets, key=lambda ticket: ticket.create_revision)),
            revision=answer.revision,
            recent=interval[0].value.decode(errors="replace") or "somebody" if interval else "",
        )

    async def _if_same(self, ticket: Ticket, *operations: codec.Json) -> bool:
        answer = await self._client.txn([codec.compare(self._key(ticket), "MOD", ticket.mod_revision)], operations)
        return answer.succeeded

    def _key(self, ticket: Ticket) -> str:
        return f"{self._queue_key if ticket.in_queue else self._slots_key}{ticket.machine_id}"

    def _named(self, pair: codec.KeyValue) -> Ticket:
        """Return the ticket of a waiter of whom only the key was read."""
        claim = Claim(pair.key.removeprefix(self._queue_key), Phase.WAITING, boot_id="")
        if not NAME.fullmatch(claim.machine_id):
            claim = _damaged(claim, "the key's name is no machine id")
        elif pair.lease == 0:
            claim = _damaged(claim, NO_LEASE)
        return Ticket(claim, pair.create_revision, pair.mod_revision, pair.lease, in_queue=True)

    def _parse_ticket(self, pair: codec.KeyValue) -> Ticket:
        in_queue = pair.key.startswith(self._queue_key)
        claim = decode_claim(pair.key.removeprefix(self._queue_key if in_queue else self._slots_key), pair.value)
        if in_queue != (claim.phase is Phase.WAITING):
            claim = _damaged(claim, f"the ticket is {claim.phase.value}, and not where such tickets are")
        elif in_queue and pair.lease == 0:  # a waiter that would never leave the queue isn't one of ours
            claim = _damaged(claim, NO_LEASE)
        number = claim.number if 0 < claim.number <= pair.create_revision else pair.create_revision
        return Ticket(claim, number, pair.mod_revision, pair.lease, in_queue)

    def _parse_settings(self, pairs: tuple[codec.KeyValue, ...]) -> GroupSettings:
        if not pairs:
            return GroupSettings()
        try:
            return decode_settings(pairs[0].value, pairs[0].mod_revision)
        except DamagedError as error:
            raise damaged_settings(self._settings_key, error) from error


def _damaged(claim: Claim, detail: str) -> Claim:
    if claim.phase is Phase.DAMAGED:
        return claim  # it says itself what is wrong
    return Claim(claim.machine_id, Phase.DAMAGED, boot_id="", detail=detail)


def damaged_settings(where: str, error: DamagedError) -> RefusedError:
    """Return the refusal that a group's unreadable settings mean."""
    return RefusedError(
        ErrorCode.SETTINGS_DAMAGED,
        f"the group's settings in {where} are damaged: {error}",
        hint="Nobody is granted a slot until they are right: remove the key, then `lockctl set-max N`.",
    )
