"""The settings of `lockd-fleetlock`: where it listens, whom it lets in, which groups it serves, where etcd is.

Read like the daemon's: defaults, `lockd-fleetlock.toml`, `conf.d/NN-name.toml`. LOCKD_FLEETLOCK_CONFIG or `--config`
names one file instead of the system's. What would let strangers take slots is refused, not warned about.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lockd import fleetlock_codec as codec
from lockd.config import EtcdSettings, check_etcd
from lockd.errors import ErrorCode, LocalError
from updated.common.log import check_level
from updated.common.schema import fill
from updated.common.settings import Layers, SettingsError, load_layers

GROUP_LIMIT = 100


@dataclass(frozen=True, slots=True)
class ServerEtcdSettings(EtcdSettings):
    """As the daemon's; the lease of a host that waits must outlast the time between two of its questions."""

    lease_ttl_secs: int = 900  # Zincati asks every 5 minutes, and a little


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything that `lockd-fleetlock` may be told."""

    listen: str = "127.0.0.1:8437"
    cert_file: Path | None = None  # of the server, with its key: TLS
    key_file: Path | None = None
    client_ca_file: Path | None = None  # who signs the hosts' certificates: mutual TLS
    token_file: Path | None = None  # one token a line; any of them lets a host in
    insecure: bool = False  # let everybody in who can connect, or tokens pass in the clear
    groups: tuple[str, ...] = ("default",)
    expected_down_secs: float = 1800.0  # after which a host that is down counts as overdue
    log_level: str = "info"
    etcd: ServerEtcdSettings = field(default_factory=ServerEtcdSettings)


@dataclass(frozen=True, slots=True)
class LoadedServer:
    """Checked settings, where they came from, and the keys that nothing knows."""

    settings: ServerSettings
    layers: Layers
    unknown: tuple[str, ...]


def load_server(config: Path | None, environ: Mapping[str, str]) -> LoadedServer:
    """Read every layer and check it.

    Raises:
        LocalError: CONFIG; a file is unreadable, malformed, or says something that can't be.
    """
    named = environ.get("LOCKD_FLEETLOCK_CONFIG")
    try:
        layers = load_layers("lockd-fleetlock", config or (Path(named) if named else None))
        settings, unknown = fill(ServerSettings, layers)
        _check(settings)
    except (SettingsError, ValueError) as error:
        raise LocalError(ErrorCode.CONFIG, str(error), hint="Correct lockd-fleetlock.toml.") from error
    return LoadedServer(settings, layers, unknown)


def _check(settings: ServerSettings) -> None:
    check_level(settings.log_level)
    split_address(settings.listen)
    if not settings.groups or len(settings.groups) > GROUP_LIMIT:
        raise ValueError(f"groups must name 1 to {GROUP_LIMIT} groups")
    for group in settings.groups:
        if not codec.GROUP.fullmatch(group):
            raise ValueError(f"group {group!r}: the FleetLock protocol knows only letters, digits, dots and dashes")
    if bool(settings.cert_file) != bool(settings.key_file):
        raise ValueError("cert_file and key_file go together")
    if settings.client_ca_file and not settings.cert_file:
        raise ValueError("client_ca_file needs cert_file and key_file: without TLS there are no client certificates")
    try:
        check_etcd(settings.etcd)
    except LocalError as error:
        raise ValueError(error.message) from error
    if not settings.insecure:
        _check_door(settings)


def _check_door(settings: ServerSettings) -> None:
    host, _ = split_address(settings.listen)
    if not settings.token_file and not settings.client_ca_file:
        raise ValueError("nobody is asked who he is: set token_file or client_ca_file, or insecure = true")
    if not settings.cert_file and not _is_loopback(host):
        raise ValueError(f"tokens would pass in the clear on {host}: set cert_file and key_file, or insecure = true")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ADDR:PORT, [ADDR]:PORT for IPv6.

    Raises:
        ValueError: it isn't one.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the last port
        raise ValueError(f"listen is {address!r}, not ADDR:PORT such as 127.0.0.1:8437 or [::1]:8437")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
