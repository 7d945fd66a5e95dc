"""The store for one machine: the same tickets and settings in a small file, under a lock.

It keeps what etcd keeps (creation order, revisions), so that everything above it is the same. Several daemons of one
machine (containers on one host) may share the file.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lockd.errors import ErrorCode, LocalError, RefusedError
from lockd.store import damaged_settings
from lockd.tickets import (
    Claim,
    DamagedError,
    Group,
    GroupSettings,
    Ticket,
    Unlock,
    decode_claim,
    decode_settings,
    decode_unlock,
    encode_claim,
    encode_settings,
    encode_unlock,
)
from updated.common.durable import give_to_directory_owner, read_bounded, write_atomic

T = TypeVar("T")
FILE_LIMIT = 1024 * 1024  # bytes
POLL_SECS = 5.0  # how often a waiter looks at the file again
UNLOCKS_LIMIT = 50  # records of forced unlocks that are kept
TTL_SECS = 3600.0  # a waiting ticket here doesn't expire: whoever wrote it is on this machine


@dataclass(slots=True)
class _Content:
    """The file: settings, tickets, records of forced unlocks (latest first), and the number of the last write."""

    revision: int = 0
    settings: GroupSettings = field(default_factory=GroupSettings)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    unlocks: tuple[Unlock, ...] = ()

    def group(self) -> Group:
        ordered = sorted(self.tickets.values(), key=lambda ticket: ticket.create_revision)
        queued = sum(not ticket.holds for ticket in ordered)
        return Group(self.settings, tuple(ordered), self.revision, queued=queued, unlocks=self.unlocks)


class LocalStore:
    """A group's tickets in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def ttl_secs(self) -> float:
        """How long a waiting ticket lives without `keep`."""
        return TTL_SECS

    async def read(self) -> Group:
        """Read the file; one that isn't there is an empty group.

        Raises:
            LocalError: the file is damaged or can't be read.
            RefusedError: its settings are damaged.
        """
        return await self._locked(lambda content: content.group())

    async def look(self, machine_id: str) -> Group:
        """Read the file: there is never much in it.

        Raises:
            LocalError: the file is damaged or can't be read.
            RefusedError: its settings are damaged.
        """
        del machine_id
        return await self.read()

    async def enqueue(self, claim: Claim) -> Group:
        """Add a ticket, unless the host has one."""

        def change(content: _Content) -> Group:
            if claim.machine_id not in content.tickets:
                content.revision += 1
                content.tickets[claim.machine_id] = Ticket(claim, content.revision, content.revision, lease=1)
            return content.group()

        return await self._locked(change)

    async def grant(self, seen: Group, ticket: Ticket, claim: Claim) -> Ticket | None:
        """Replace a ticket if neither it nor the settings changed."""

        def change(content: _Content) -> Ticket | None:
            same = content.settings.revision == seen.settings.revision
            return content.tickets[ticket.machine_id] if same and _replace(content, ticket, claim) else None

        return await self._locked(change)

    async def commit(self, seen: Group, ticket: Ticket, claim: Claim) -> Group | None:
        """Replace a ticket like `grant`, and look."""
        return await self.read() if await self.grant(seen, ticket, claim) else None

    async def amend(self, ticket: Ticket, claim: Claim) -> bool:
        """Replace a ticket if it didn't change."""
        return await self._locked(lambda content: _replace(content, ticket, claim))

    async def remove(self, ticket: Ticket) -> bool:
        """Take a ticket away if it is still this one."""

        def change(content: _Content) -> bool:
            if not _is_same(content, ticket):
                return False
            content.revision += 1
            del content.tickets[ticket.machine_id]
            return True

        return await self._locked(change)

    async def unlock(self, ticket: Ticket, record: Unlock) -> bool:
        """Take a ticket away, and keep a record of it."""
        if not await self.remove(ticket):
            return False

        def change(content: _Content) -> None:
            content.revision += 1
            content.unlocks = (record, *content.unlocks)[:UNLOCKS_LIMIT]

        await self._locked(change)
        return True

    async def put_settings(self, seen: Group, settings: GroupSettings) -> bool:
        """Replace the settings if they didn't change.

        Raises:
            RefusedError: NO_TICKETS; a percentage or a minimum interval, which are for many machines.
        """
        if settings.percent or settings.min_interval_secs:
            raise RefusedError(
                ErrorCode.NO_TICKETS, "one machine's file knows no percentage and no minimum interval",
                hint="They are for a group in etcd: strategy etcd in lockd.toml.",
            )  # fmt: skip

        def change(content: _Content) -> bool:
            if content.settings.revision != seen.settings.revision:
                return False
            content.revision += 1
            content.settings = replace(settings, revision=content.revision)
            return True

        return await self._locked(change)

    async def keep(self, ticket: Ticket) -> bool:
        """Tell whether the ticket is still there."""
        return await self._locked(lambda content: _is_same(content, ticket))

    async def wait_turn(self, seen: Group, ticket: Ticket, timeout_secs: float) -> None:
        """Wait a little: one file on one machine is cheap to look at."""
        del seen, ticket
        await asyncio.sleep(min(timeout_secs, POLL_SECS))

    async def close(self) -> None:
        """Nothing is held open."""

    async def _locked(self, change: Callable[[_Content], T]) -> T:
        return await asyncio.to_thread(self._change, change)

    def _change(self, change: Callable[[_Content], T]) -> T:
        try:
            with _lock(self._path.with_name(f"{self._path.name}.lock")):
                content = self._load()
                before = content.revision
                result = change(content)
                if content.revision != before:
                    write_atomic(self._path, _encode(content))
                return result
        except OSError as error:
            raise LocalError(
                ErrorCode.STATE, f"{self._path} can't be read or written: {error}",
                hint="Check that the directory is there and lockd may write to it ([local] lock_file).",
            ) from error  # fmt: skip

    def _load(self) -> _Content:
        try:
            return _decode(read_bounded(self._path, FILE_LIMIT), str(self._path))
        except FileNotFoundError:
            return _Content()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise LocalError(
                ErrorCode.STATE, f"{self._path} is damaged: {error!r}",
                hint="This host doesn't reboot until the file is repaired or, when nobody holds a slot, removed.",
            ) from error  # fmt: skip


def _is_same(content: _Content, ticket: Ticket) -> bool:
    there = content.tickets.get(ticket.machine_id)
    return there is not None and there.mod_revision == ticket.mod_revision


def _replace(content: _Content, ticket: Ticket, claim: Claim) -> bool:
    if not _is_same(content, ticket):
        return False
    content.revision += 1
    content.tickets[ticket.machine_id] = Ticket(claim, ticket.create_revision, content.revision)
    return True


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        give_to_directory_owner(fd, path.parent)
        fcntl.flock(fd, fcntl.LOCK_EX)  # held for one read and one write only
        yield
    finally:
        os.close(fd)


def _encode(content: _Content) -> bytes:
    document = {
        "revision": content.revision,
        "settings_revision": content.settings.revision,
        "settings": json.loads(encode_settings(content.settings)),
        "tickets": {
            name: {
                "create_revision": ticket.create_revision,
                "mod_revision": ticket.mod_revision,
                "lease": ticket.lease,
                "claim": json.loads(encode_claim(ticket.claim)),
            }
            for name, ticket in content.tickets.items()
        },
        "unlocks": [json.loads(encode_unlock(unlock)) for unlock in content.unlocks],
    }
    return json.dumps(document, indent=2).encode()


def _decode(data: bytes, where: str) -> _Content:
    document = json.loads(data)
    try:
        settings = decode_settings(_dump(document["settings"]), int(document["settings_revision"]))
    except DamagedError as error:
        raise damaged_settings(where, error) from error
    tickets = {
        name: Ticket(
            decode_claim(name, _dump(item["claim"])),
            int(item["create_revision"]),
            int(item["mod_revision"]),
            int(item["lease"]),
        )
        for name, item in document["tickets"].items()
    }
    unlocks = tuple(decode_unlock(_dump(item)) for item in document.get("unlocks", []))
    return _Content(int(document["revision"]), settings, tickets, unlocks)


def _dump(value: Any) -> bytes:  # noqa: ANN401 - whatever the file holds
    return json.dumps(value).encode()
