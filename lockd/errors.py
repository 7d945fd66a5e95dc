"""Every error of `lockd`: one tree, pinned numbers that are never reused."""

from __future__ import annotations

from enum import IntEnum

from updated.common.errors import OperatorError, Retry

__all__ = ["ErrorCode", "LocalError", "LockdError", "RefusedError", "RemoteError", "Retry"]


class ErrorCode(IntEnum):
    """The pinned codes."""

    CONFIG = 1
    STATE = 2  # a file of this machine: machine id, boot id, ticket file
    UNREACHABLE = 3  # the daemon, or the bus
    USAGE = 4
    BUSY = 5
    SETTINGS_DENIED = 6  # this user may not read them

    ETCD_UNREACHABLE = 10
    ETCD_ANSWER = 11  # an answer that makes no sense
    ETCD_REFUSED = 12
    ETCD_AUTH = 13
    ETCD_CONFLICT = 14  # somebody else kept changing the same key

    NO_TICKETS = 20  # the strategy has none
    SEMAPHORE_FULL = 21
    GROUP_PAUSED = 22
    TICKET_MISSING = 23
    FORCE_NEEDED = 24
    SETTINGS_DAMAGED = 25

    WINDOW = 30

    REBOOT_FAILED = 40
    REBOOT_REFUSED = 41
    DRAIN_FAILED = 42
    REBOOT_IN_DOUBT = 43  # asked for, and nobody knows whether it comes

    FLEETLOCK_UNREACHABLE = 50
    FLEETLOCK_REFUSED = 51


class LockdError(OperatorError):
    """The root of everything that `lockd` raises on purpose."""

    code: ErrorCode


class RefusedError(LockdError):
    """Policy says no, or not now: a command exits with 3."""

    refused = True


class RemoteError(LockdError):
    """etcd or what it sent is at fault."""


class LocalError(LockdError):
    """This machine is at fault: configuration, files, bus."""
