"""The policy file: defaults, lockd.toml, drop-ins, environment; strict where a slip would mean a wrong reboot.

Precedence, lowest first: the defaults below, locksmith's settings (`update_conf`), `lockd.toml`, `conf.d/NN-
name.toml`, the environment (LOCKD_BUS_ADDRESS, LOCKD_ENDPOINTS, LOCKD_GROUP, LOCKD_MACHINE_ID). `LOCKD_CONFIG` or
`--config` names one file instead of the system's. LOCKD_ENDPOINTS means strategy `etcd` unless a file, locksmith's too,
says which strategy. A file that is named must be there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import time, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lockd.errors import ErrorCode, LocalError, RefusedError
from lockd.fleetlock_settings import FleetLockSettings, check_fleetlock
from lockd.gates import STRATEGIES
from lockd.local_settings import HOOK_DIRS, AlertSettings, HookSettings, SessionSettings, check_local
from lockd.oncalendar import parse
from lockd.tickets import NAME
from lockd.update_conf import KEYS, translate
from lockd.wholeness import doubt_of
from lockd.windows import Blackout, Window, check_duration, parse_blackout, parse_start, parse_weekday
from updated.common.durable import read_bounded
from updated.common.log import check_level
from updated.common.ownership import read_owned
from updated.common.schema import fill
from updated.common.settings import (
    Layers,
    SettingsDeniedError,
    SettingsError,
    layer_paths,
    load_layers,
    read_key_values,
)
from updated.common.urls import check_http_url

ENVIRONMENT = {"LOCKD_BUS_ADDRESS": "bus_address", "LOCKD_GROUP": "group", "LOCKD_MACHINE_ID": "machine_id"}
UPDATE_CONF = (Path("/usr/share/flatcar/update.conf"), Path("/etc/flatcar/update.conf"))  # the last one wins
LOCKSMITH = "update.conf, or the environment of locksmith"
LOCALTIME = Path("/etc/localtime")
LEAST_RETRY_SECS = 60  # by then the host is down, or the reboot counts as come to nothing and the slot is given back
STARTS_A_DAY = 96  # of a window's calendar; more is no window
STRICT = (
    "window",
    "windows",
    "strategy",
    "blackout",
    "blackouts",
    "hooks",
    "alerts",
    "sessions",
)  # slips let reboots through
BOOT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PREFIX = re.compile(r"(/[A-Za-z0-9._-]+)+")


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where the tickets of strategy `etcd` are."""

    endpoints: tuple[str, ...] = ()
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    prefix: str = "/lockd"
    request_timeout_secs: float = 5.0
    lease_ttl_secs: int = 90
    known_days: int = 30  # how long a machine that isn't up counts for a percentage


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Where the tickets of strategy `local` are."""

    lock_file: Path | None = None  # none: tickets.json in state_dir


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """One `[[window]]`."""

    duration_secs: int
    start: str = ""  # HH:MM
    days: tuple[str, ...] = ()  # Mon to Sun; none: every day
    calendar: str = ""  # instead of start and days: as systemd's OnCalendar=
    timezone: str = ""  # IANA name, or local; none: UTC


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that lockd may be told."""

    strategy: str = "local"
    group: str = "default"
    machine_id: str = ""  # none: what machine_id_file says
    machine_id_file: Path = Path("/etc/machine-id")
    boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")
    state_dir: Path = Path("/var/lib/lockd")
    hold_file: Path = Path("/run/lockd/hold")
    reboot_command: tuple[str, ...] = ()  # none: ask logind
    bus_address: str | None = None  # none: the system bus
    log_level: str = "info"
    update_conf: tuple[Path, ...] = ()  # locksmith's settings, the last file wins; none: the system's, without --config
    spread_secs: float = 600.0  # over which the hosts that waited for a window begin in it
    blackout: tuple[str, ...] = ()  # days YYYY-MM-DD, or YYYY-MM-DD..YYYY-MM-DD, without a window
    blackout_timezone: str = "UTC"
    min_remaining_secs: float = 300.0  # of the window, when the reboot begins
    expected_down_secs: float = 1800.0  # after which a host that is down counts as overdue
    reboot_retry_secs: float = 600.0
    on_rollback: str = "pause"  # or release
    etcd: EtcdSettings = field(default_factory=EtcdSettings)
    local: LocalSettings = field(default_factory=LocalSettings)
    fleetlock: FleetLockSettings = field(default_factory=FleetLockSettings)
    sessions: SessionSettings = field(default_factory=SessionSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    hooks: HookSettings = field(default_factory=HookSettings)
    window: tuple[WindowSettings, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """Checked settings, the windows they mean, where they came from, and the keys that nothing knows."""

    settings: Settings
    windows: tuple[Window, ...]
    blackouts: tuple[Blackout, ...]
    hook_dirs: tuple[Path, ...]
    layers: Layers
    unknown: tuple[str, ...]
    doubt: str = ""  # why this policy may not be all of it, so that nothing reboots by it; empty: nothing says so


def named_file(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file that is read instead of the system's: `--config`, or LOCKD_CONFIG."""
    return config or (Path(environ["LOCKD_CONFIG"]) if environ.get("LOCKD_CONFIG") else None)


def paths_read(explicit: Path | None, settings: Settings) -> list[Path]:
    """Return every file that settings like these are made of, and those that they name and that are read once."""
    layers = [explicit] if explicit and explicit.suffix == ".conf" else layer_paths("lockd", explicit)
    etcd, fleetlock = settings.etcd, settings.fleetlock
    secrets = (etcd.ca_file, etcd.cert_file, etcd.key_file, etcd.password_file)
    tokens = (fleetlock.ca_file, fleetlock.cert_file, fleetlock.key_file, fleetlock.token_file)
    named = [path for path in (*secrets, *tokens) if path is not None]
    return [*layers, *(settings.update_conf or UPDATE_CONF), *named, settings.machine_id_file, LOCALTIME]


def load(config: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read every layer and check it.

    Raises:
        RefusedError: SETTINGS_DENIED; this user may not read a file.
        LocalError: CONFIG; a file is unreadable, malformed, or says something that can't be.
    """
    explicit = named_file(config, environ)
    try:
        layers = _read_layers(explicit)
        _put_environment(layers, environ)
        settings, _ = fill(Settings, layers)
        _put_update_conf(layers, settings, environ, explicit)
        _put_strategy(layers, environ)
        _put_announce(layers)
        settings, unknown = fill(Settings, layers)
        check_level(settings.log_level)
        check_local(settings.sessions, settings.alerts, settings.hooks)
        doubt = doubt_of(explicit, layers, unknown)
    except SettingsDeniedError as error:
        raise RefusedError(
            ErrorCode.SETTINGS_DENIED, str(error),
            hint="Run the command as root; explain, status, machines and windows ask a lockd that runs, for everyone.",
        ) from error  # fmt: skip
    except (SettingsError, ValueError) as error:
        raise _bad(str(error)) from error
    _check(settings)
    misplaced = [key for key in unknown if key.split(".")[0] in STRICT]
    if misplaced:  # a window that isn't heeded would let a reboot through
        raise _bad(f"unknown setting {misplaced[0]} in {layers.origin[misplaced[0]]}")
    windows, blackouts = tuple(map(_window, settings.window)), _blackouts(settings)
    settings = _with_room(settings, layers)
    dirs = settings.hooks.dirs or ((explicit.parent,) if explicit else HOOK_DIRS)
    return Loaded(settings, windows, blackouts, dirs, layers, unknown, doubt)


def _read_layers(explicit: Path | None) -> Layers:
    if explicit is None or explicit.suffix != ".conf":
        return load_layers("lockd", explicit)
    layers = Layers()
    layers.put(translate(read_key_values(explicit, required=True, owned=True)), str(explicit))
    return layers


def _put_update_conf(layers: Layers, settings: Settings, environ: Mapping[str, str], explicit: Path | None) -> None:
    """Lay locksmith's settings under everything else; of the system's files any may be missing."""
    values: dict[str, str] = {}
    for path in settings.update_conf or (() if explicit else UPDATE_CONF):
        values |= read_key_values(path, required=bool(settings.update_conf) or path.is_symlink(), owned=True)
    below = Layers()
    below.put(translate(values | {key: environ[key] for key in KEYS if environ.get(key)}), LOCKSMITH)
    layers.put({key: value for key, value in below.values.items() if key not in layers.values}, LOCKSMITH)


def _put_strategy(layers: Layers, environ: Mapping[str, str]) -> None:
    """Take endpoints in the environment for strategy `etcd` where nothing says which: `off` in any file stays."""
    if environ.get("LOCKD_ENDPOINTS") and "strategy" not in layers.values:
        layers.put({"strategy": "etcd"}, "environment LOCKD_ENDPOINTS")


def _put_announce(layers: Layers) -> None:
    """Take a wall_command for how people are told, an empty one for nobody, where nothing says how."""
    key = "sessions.wall_command"
    if key in layers.values and "sessions.announce" not in layers.values:
        layers.put({"sessions": {"announce": "command" if layers.values[key] else "nobody"}}, layers.origin[key])


def _with_room(settings: Settings, layers: Layers) -> Settings:
    """Check that a reboot has time to begin in each window; locksmith knew no such time, so there it gives way."""
    shortest = min((window.duration_secs for window in settings.window), default=None)
    if shortest is None or shortest > settings.min_remaining_secs:
        return settings
    origin = layers.origin["window"]
    if "min_remaining_secs" not in layers.values and (origin == LOCKSMITH or origin.endswith(".conf")):
        return replace(settings, min_remaining_secs=shortest / 2)
    raise _bad(
        f"a window of {shortest} s, in {origin}, lets no reboot through: min_remaining_secs is"
        f" {settings.min_remaining_secs:g}, and must be less"
    )


def read_machine_id(settings: Settings) -> str:
    """Return the id under which this host queues.

    Raises:
        LocalError: STATE; the file is missing or has no id in it.
    """
    return settings.machine_id or _read_id(settings.machine_id_file, NAME)


def read_boot_id(settings: Settings) -> str:
    """Return the id of this boot.

    Raises:
        LocalError: STATE; the file is missing or has no id in it.
    """
    return _read_id(settings.boot_id_file, BOOT_ID)


def read_password(settings: EtcdSettings) -> str:
    """Return the password for etcd, empty without a password_file.

    Raises:
        LocalError: STATE; the file can't be read.
    """
    if settings.password_file is None:
        return ""
    try:
        return read_owned(settings.password_file, 4096).decode().rstrip("\n")
    except (OSError, ValueError) as error:
        raise _unreadable(f"{settings.password_file} can't be read: {error}") from error


def _put_environment(layers: Layers, environ: Mapping[str, str]) -> None:
    for name, key in ENVIRONMENT.items():
        if environ.get(name):
            layers.put({key: environ[name]}, f"environment {name}")
    if environ.get("LOCKD_ENDPOINTS"):
        endpoints = [part.strip() for part in environ["LOCKD_ENDPOINTS"].split(",") if part.strip()]
        layers.put({"etcd": {"endpoints": endpoints}}, "environment LOCKD_ENDPOINTS")


def _check(settings: Settings) -> None:
    if settings.strategy not in STRATEGIES:
        raise _bad(f"strategy must be one of {', '.join(STRATEGIES)}, not {settings.strategy!r}")
    if not NAME.fullmatch(settings.group):
        raise _bad(f"group must be 1 to 64 letters, digits, dots, dashes or underscores, not {settings.group!r}")
    if settings.machine_id and not NAME.fullmatch(settings.machine_id):
        raise _bad(f"machine_id {settings.machine_id!r} isn't 1 to 64 letters, digits, dots, dashes or underscores")
    if settings.on_rollback not in ("pause", "release"):
        raise _bad(f"on_rollback must be pause or release, not {settings.on_rollback!r}")
    if settings.reboot_retry_secs < LEAST_RETRY_SECS:
        raise _bad(f"reboot_retry_secs must be {LEAST_RETRY_SECS} or more: a host needs that long to go down")
    if settings.strategy == "etcd":
        check_etcd(settings.etcd)
    if settings.strategy == "fleetlock":
        _check_fleetlock(settings)


def check_etcd(etcd: EtcdSettings) -> None:
    """Check what a store in etcd needs.

    Raises:
        LocalError: CONFIG; something can't be.
    """
    if not etcd.endpoints:
        raise _bad("strategy etcd needs etcd.endpoints, such as https://10.0.0.1:2379")
    for endpoint in etcd.endpoints:
        _check_endpoint(endpoint)
    if not PREFIX.fullmatch(etcd.prefix):
        raise _bad(f"etcd.prefix must begin with / and not end with it, not {etcd.prefix!r}")
    if etcd.lease_ttl_secs < 10 or etcd.request_timeout_secs <= 0:  # noqa: PLR2004 - room for a few lost renewals
        raise _bad("etcd.lease_ttl_secs must be 10 or more, and etcd.request_timeout_secs above 0")
    if not 1 <= etcd.known_days <= 3650:  # noqa: PLR2004 - ten years
        raise _bad(f"etcd.known_days must be from 1 to 3650, not {etcd.known_days}")
    if bool(etcd.cert_file) != bool(etcd.key_file):
        raise _bad("etcd.cert_file and etcd.key_file go together; ca_file goes alone")


def _check_endpoint(endpoint: str) -> None:
    try:
        path = check_http_url(endpoint).path
    except ValueError as error:
        raise _bad(f"etcd.endpoints: {error}; one is such as https://10.0.0.1:2379") from error
    if path:
        raise _bad(f"etcd.endpoints: {endpoint!r} must end with its host and port: no path")


def _check_fleetlock(settings: Settings) -> None:
    try:
        check_fleetlock(settings.fleetlock, settings.group)
    except ValueError as error:
        raise _bad(str(error)) from error


def _window(settings: WindowSettings) -> Window:
    if bool(settings.start) == bool(settings.calendar) or (settings.calendar and settings.days):
        raise _bad("each window has either start, with or without days, or calendar")
    try:
        if settings.calendar:
            return _calendar_window(settings)
        return Window(
            start=parse_start(settings.start),
            duration_secs=check_duration(settings.duration_secs),
            zone=_zone(settings.timezone),
            weekdays=frozenset(map(parse_weekday, settings.days)),
        )
    except (ValueError, ZoneInfoNotFoundError, OSError) as error:
        raise _bad(f"window {settings.start or settings.calendar!r}: {error}") from error


def _calendar_window(settings: WindowSettings) -> Window:
    calendar = parse(settings.calendar, limit=STARTS_A_DAY)
    if calendar.zone and settings.timezone:
        raise ValueError("the zone is in calendar, so timezone must be left out")
    duration, zone = check_duration(settings.duration_secs), _zone(calendar.zone or settings.timezone)
    return Window(time(0), duration, zone, calendar=calendar)


def _zone(name: str) -> tzinfo:
    """Return a zone by its name; `local` is the machine's, as TZ or /etc/localtime have it."""
    if name != "local":
        return ZoneInfo(name or "UTC")
    named = os.environ.get("TZ", "").removeprefix(":")
    if named.startswith("/"):  # tzset(3) takes a file too; below a zoneinfo folder it is called as its zone
        named = named.partition("/zoneinfo/")[2] or named
    if named and named != str(LOCALTIME):
        return ZoneInfo(named)
    try:
        with LOCALTIME.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except FileNotFoundError:
        return ZoneInfo("UTC")  # localtime(5): no link means UTC


def _blackouts(settings: Settings) -> tuple[Blackout, ...]:
    try:
        zone = _zone(settings.blackout_timezone)
        return tuple(parse_blackout(text, zone) for text in settings.blackout)
    except (ValueError, ZoneInfoNotFoundError, OSError) as error:
        raise _bad(f"blackout: {error}") from error


def _read_id(path: Path, pattern: re.Pattern[str]) -> str:
    try:
        text = read_bounded(path, 256).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise _unreadable(f"{path} can't be read: {error}") from error
    if not pattern.fullmatch(text):
        raise _unreadable(f"{path} holds {text!r}, not the id that it should")
    return text


def _bad(message: str) -> LocalError:
    return LocalError(
        ErrorCode.CONFIG, message, hint="Correct lockd.toml; until then this host doesn't reboot by lockd."
    )


def _unreadable(message: str) -> LocalError:
    return LocalError(ErrorCode.STATE, message, hint="Repair the file, or name another in lockd.toml.")
