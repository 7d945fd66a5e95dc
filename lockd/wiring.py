"""Makes the real store of the configured strategy, for the daemon and for lockctl."""

from __future__ import annotations

import socket

from lockd.config import Settings, read_boot_id, read_machine_id, read_password
from lockd.errors import ErrorCode, RefusedError
from lockd.etcd import EtcdOptions, open_etcd
from lockd.semaphore import Identity, Semaphore
from lockd.store import EtcdStore, Store
from lockd.store_local import LocalStore
from updated.common.clock import Clock


def make_store(settings: Settings) -> Store | None:
    """Return the store of the strategy, None for strategies without tickets.

    Raises:
        LocalError: the TLS files or the password file can't be read.
    """
    if settings.strategy == "local":
        return LocalStore(settings.local.lock_file or settings.state_dir / "tickets.json")
    if settings.strategy != "etcd":
        return None
    etcd = settings.etcd
    options = EtcdOptions(
        endpoints=etcd.endpoints,
        ca_file=etcd.ca_file,
        cert_file=etcd.cert_file,
        key_file=etcd.key_file,
        username=etcd.username,
        password=read_password(etcd),
        request_timeout_secs=etcd.request_timeout_secs,
    )
    return EtcdStore(open_etcd(options), prefix=etcd.prefix, group=settings.group, lease_ttl_secs=etcd.lease_ttl_secs)


def make_identity(settings: Settings) -> Identity:
    """Return who this host is in this boot.

    Raises:
        LocalError: the machine id or the boot id can't be read.
    """
    return Identity(read_machine_id(settings), read_boot_id(settings), socket.gethostname())


def make_semaphore(settings: Settings, clock: Clock) -> Semaphore | None:
    """Return the group's semaphore, None for strategies without tickets.

    Raises:
        LocalError: a file that it needs can't be read.
    """
    identity = make_identity(settings)
    store = make_store(settings)
    if store is None:
        return None
    return Semaphore(store, clock, identity, expected_down_secs=settings.expected_down_secs)


def require_semaphore(settings: Settings, clock: Clock) -> Semaphore:
    """Return the group's semaphore.

    Raises:
        RefusedError: NO_TICKETS; the strategy has none.
        LocalError: a file that it needs can't be read.
    """
    semaphore = make_semaphore(settings, clock)
    if semaphore is None:
        raise RefusedError(
            ErrorCode.NO_TICKETS, f"strategy {settings.strategy} has no tickets",
            hint="Set strategy etcd or local in lockd.toml, or LOCKD_ENDPOINTS.",
        )  # fmt: skip
    return semaphore
