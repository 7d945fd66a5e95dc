"""Makes the real store of the configured strategy, for the daemon and for lockctl."""

from __future__ import annotations

import socket
from dataclasses import replace

from lockd.blockers import Blockers
from lockd.config import EtcdSettings, Loaded, Settings, read_boot_id, read_machine_id, read_password
from lockd.drain import Drain
from lockd.errors import ErrorCode, RefusedError
from lockd.etcd import EtcdClient, EtcdOptions, open_etcd
from lockd.fleetlock_client import FleetLockOptions, open_fleetlock
from lockd.fleetlock_codec import Params, check_base_url
from lockd.fleetlock_settings import fleetlock_id, read_tokens
from lockd.fleetlock_store import FleetLockStore
from lockd.local import Local
from lockd.means import Policy
from lockd.people import People
from lockd.permission import Permission
from lockd.registry import Registry
from lockd.semaphore import Identity, Semaphore
from lockd.store import EtcdStore, Store
from lockd.store_local import LocalStore
from lockd.waiting import Waiting
from updated.common.bus import Bus
from updated.common.clock import Clock


def make_policy(loaded: Loaded) -> Policy:
    """Return what the gates need of the settings."""
    settings = loaded.settings
    return Policy(
        strategy=settings.strategy,
        group=settings.group,
        windows=loaded.windows,
        blackouts=loaded.blackouts,
        spread_secs=settings.spread_secs,
        min_remaining_secs=settings.min_remaining_secs,
        hold_file=settings.hold_file,
        reboot_retry_secs=settings.reboot_retry_secs,
    )


def make_store(settings: Settings) -> Store | None:
    """Return the store of the strategy, None for strategies without tickets.

    Raises:
        LocalError: a TLS file or a file with a secret can't be read.
    """
    if settings.strategy == "local":
        return LocalStore(settings.local.lock_file or settings.state_dir / "tickets.json")
    if settings.strategy == "fleetlock":
        return _fleetlock_store(settings)
    if settings.strategy != "etcd":
        return None
    etcd = settings.etcd
    return EtcdStore(open_client(etcd), prefix=etcd.prefix, group=settings.group, lease_ttl_secs=etcd.lease_ttl_secs)


def open_client(etcd: EtcdSettings) -> EtcdClient:
    """Make a client of etcd; nothing is sent yet.

    Raises:
        LocalError: the TLS files or the password file can't be read.
    """
    options = EtcdOptions(
        endpoints=etcd.endpoints,
        ca_file=etcd.ca_file,
        cert_file=etcd.cert_file,
        key_file=etcd.key_file,
        username=etcd.username,
        password=read_password(etcd),
        request_timeout_secs=etcd.request_timeout_secs,
    )
    return open_etcd(options)


def _fleetlock_store(settings: Settings) -> FleetLockStore:
    table, machine_id = settings.fleetlock, read_machine_id(settings)
    options = FleetLockOptions(
        base_url=check_base_url(table.base_url),
        params=Params(fleetlock_id(table, machine_id), settings.group),
        ca_file=table.ca_file,
        cert_file=table.cert_file,
        key_file=table.key_file,
        token="".join(read_tokens(table.token_file)[:1]),
        request_timeout_secs=table.request_timeout_secs,
    )
    return FleetLockStore(settings.state_dir / "fleetlock.json", open_fleetlock(options), machine_id)


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
    keep = settings.on_rollback == "pause"
    return Semaphore(store, clock, identity, expected_down_secs=settings.expected_down_secs, keep_after_rollback=keep)


def make_registry(settings: Settings) -> Registry | None:
    """Return the register of the group's machines, None for strategies without one.

    Raises:
        LocalError: a TLS file or the password file can't be read.
    """
    etcd = settings.etcd
    if settings.strategy != "etcd":
        return None
    return Registry(open_client(etcd), prefix=etcd.prefix, group=settings.group, known_days=etcd.known_days)


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


def make_local(loaded: Loaded, clock: Clock, bus: Bus, identity: Identity) -> Local:
    """Return what is looked at on this host itself."""
    settings = loaded.settings
    hooks = replace(settings.hooks, dirs=loaded.hook_dirs)
    env = {
        "LOCKD_GROUP": settings.group,
        "LOCKD_STRATEGY": settings.strategy,
        "LOCKD_MACHINE_ID": identity.machine_id,
        "LOCKD_BOOT_ID": identity.boot_id,
        "LOCKD_HOST": identity.host,
    }
    permission = None if settings.reboot_command else Permission(clock, bus)
    return Local(
        blockers=Blockers(clock, bus, (hooks, settings.alerts), env, permission=permission),
        people=People(clock, bus, settings.sessions, identity.host),
        drain=Drain(hooks, settings.state_dir / "drained.json", identity.boot_id),
        waiting=Waiting(settings.state_dir / "waiting.json"),
        env=env,
    )
