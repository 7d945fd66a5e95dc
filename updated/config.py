"""The agent's settings: defaults, update.conf, updated.toml, drop-ins, environment; each value knows its origin.

Precedence, lowest first: the defaults below, update.conf's KEY=VALUE files as Flatcar has them, `updated.toml`,
`conf.d/NN-name.toml`, the environment (UPDATED_BUS_ADDRESS). `UPDATED_CONFIG` or `--config` names one file instead
of the system's; update.conf is then left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from updated.common.log import LEVELS
from updated.common.schema import fill, flatten
from updated.common.settings import Layers, SettingsError, load_layers, read_key_values
from updated.common.urls import has_user, is_download_url, shown_url
from updated.errors import ErrorCode, LocalError

# highest precedence first (update_engine's order); an empty value in an earlier file wins there too
UPDATE_CONF = (
    Path("/etc/flatcar/update.conf"),
    Path("/usr/share/flatcar/update.conf"),
    Path("/usr/share/flatcar/release"),
)
UPDATE_CONF_KEYS = {
    "SERVER": "server.url",
    "GROUP": "server.channel",
    "MACHINE_ALIAS": "server.machine_alias",
    "FLATCAR_RELEASE_APPID": "server.product",
    "FLATCAR_RELEASE_BOARD": "server.board",
    "DOWNLOAD_USER": "download.user",
    "DOWNLOAD_PASSWORD": "download.password",
}
HIDDEN = "(hidden)"
LEGACY, VERSION_1 = "trust.allow_legacy_payloads", "trust.allow_version_1"
BOOT_LOADERS = ("gptprio", "systemd-boot", "grub")
SECRET_KEYS = ("server.proxy_password", "download.password")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Whom to ask, for what, how often."""

    url: str = ""
    product: str = ""
    channel: str = "stable"
    board: str = ""
    machine_alias: str = ""
    ca_file: Path | None = None
    proxy: str | None = None
    proxy_user: str = ""  # a URL is shown to everybody, and is no place for these two
    proxy_password: str = ""
    timeout_secs: float = 30.0
    initial_delay_secs: float = 420.0  # 7 minutes
    poll_interval_secs: float = 2700.0  # 45 minutes


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """Bounds of a download."""

    user: str = ""
    password: str = ""
    credential_hosts: tuple[str, ...] = ()  # that these two are sent to, besides server.url's
    http_redirects: bool = False  # whether redirects may lead from https to http, and over http to other hosts
    deadline_secs: float = 21600.0  # 6 hours
    min_bytes_per_sec: int = 1024
    max_bytes_per_sec: int = 0  # 0: as fast as it comes


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """What makes a payload believable."""

    keys_dir: Path = Path("/usr/share/updated/keys")
    allow_legacy_payloads: bool = False
    allow_unsigned_metadata: bool = False
    allow_version_1: bool = False  # on where update.conf or allow_legacy_payloads asks for what update_engine had


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """Where the two slots are."""

    disk: Path | None = None  # a block device or an image file; none: the disk that the running slot is on
    labels: tuple[str, ...] = ("USR-A", "USR-B")
    verity_labels: tuple[str, ...] = ()  # of their hash partitions; none: they have no verity trees of their own
    tries: int = 3
    boot_loader: str = "gptprio"  # or systemd-boot, grub
    kernel_path: Path | None = None  # gptprio, grub: where a payload's kernel goes, `{slot}` is a or b
    initrd_path: Path | None = None  # likewise, its initrd
    skip_boot_files: bool = False  # leave a payload's kernel, initrd and UKI out
    esp: Path | None = None  # systemd-boot: where the ESP is mounted; none: /efi, /boot or /boot/efi
    grubenv: Path = Path("/boot/grub/grubenv")  # grub: its environment block


@dataclass(frozen=True, slots=True)
class PackageSettings:
    """Where a release's further files go."""

    dir: Path | None = None  # `{slot}` in it is a or b; none: a release with packages that are wanted is refused
    wanted: tuple[str, ...] = ("*",)  # names as shell patterns


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """What makes a boot good."""

    units: tuple[str, ...] = ("boot-complete.target",)
    commands: tuple[tuple[str, ...], ...] = ()
    deadline_secs: float = 300.0
    interval_secs: float = 5.0
    command_timeout_secs: float = 60.0
    trial_boots: int = 1  # how many a bad verdict costs; the boot loader's tries are for boots that never speak
    reboot_command: tuple[str, ...] = ()  # after a failed trial boot; empty: ask logind


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Where the facts about this machine are; other values are for containers and tests."""

    cmdline: Path = Path("/proc/cmdline")
    mountinfo: Path = Path("/proc/self/mountinfo")
    sysfs: Path = Path("/sys")
    boot_id: Path = Path("/proc/sys/kernel/random/boot_id")
    machine_id: Path = Path("/etc/machine-id")
    os_release: Path = Path("/etc/os-release")
    root: Path = Path("/")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the agent may be told."""

    server: ServerSettings = field(default_factory=ServerSettings)
    download: DownloadSettings = field(default_factory=DownloadSettings)
    trust: TrustSettings = field(default_factory=TrustSettings)
    slots: SlotSettings = field(default_factory=SlotSettings)
    packages: PackageSettings = field(default_factory=PackageSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    host: HostSettings = field(default_factory=HostSettings)
    state_dir: Path = Path("/var/lib/updated")
    bus_address: str | None = None
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, the layers they came from, and the keys that nothing knows."""

    settings: Settings
    layers: Layers
    unknown: tuple[str, ...]


def load(config: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read every layer and check it.

    Raises:
        LocalError: CONFIG; a file is unreadable, malformed, or a value has the wrong type or can't work.
    """
    explicit = config or (Path(environ["UPDATED_CONFIG"]) if environ.get("UPDATED_CONFIG") else None)
    try:
        layers = Layers()
        if explicit is None:
            _put_update_conf(layers)
        files = load_layers("updated", explicit)
        layers.values |= files.values
        layers.origin |= files.origin
        if environ.get("UPDATED_BUS_ADDRESS"):
            layers.put({"bus_address": environ["UPDATED_BUS_ADDRESS"]}, "environment UPDATED_BUS_ADDRESS")
        _put_version_1(layers)
        settings, unknown = fill(Settings, layers)
    except SettingsError as error:
        raise _bad(str(error)) from error
    _check(settings)
    return Loaded(settings, layers, unknown)


def shown(settings: Settings) -> dict[str, Any]:
    """Return the settings as dotted keys, without what nobody should read who is shown them."""
    values = flatten(settings)
    for key in SECRET_KEYS:
        if values[key]:
            values[key] = HIDDEN
    return values


def _put_update_conf(layers: Layers) -> None:
    for path in reversed(UPDATE_CONF):
        found = read_key_values(path, owned=True)
        for key, dotted in UPDATE_CONF_KEYS.items():
            if key in found:
                layers.values[dotted] = found[key]
                layers.origin[dotted] = str(path)


def _put_version_1(layers: Layers) -> None:
    """Take payloads of version 1, which update_engine's servers have, where its settings or the legacy one are used."""
    if LEGACY in layers.values and layers.values[LEGACY] is True:
        why = layers.origin[LEGACY]
    else:
        why = next((origin for origin in layers.origin.values() if origin in set(map(str, UPDATE_CONF))), "")
    if why and VERSION_1 not in layers.values:
        layers.put({"trust": {"allow_version_1": True}}, why)


def _check(settings: Settings) -> None:
    if settings.log_level not in LEVELS:
        raise _bad(f"log_level must be one of {', '.join(LEVELS)}, not {settings.log_level!r}")
    _check_slots(settings.slots)
    _check_health(settings.health)
    if settings.packages.dir is not None and "{slot}" not in str(settings.packages.dir):
        raise _bad(f"packages.dir must have {{slot}} in it, for each slot has its own, not {settings.packages.dir}")
    _check_download(settings.download)
    _check_proxy(settings.server.proxy)
    url = settings.server.url
    if has_user(url):
        raise _bad("server.url has a user or a password in it, and is shown to everybody: it is no place for them")
    if url not in ("", "disabled") and not is_download_url(url):
        raise _bad(f"server.url must be http:// or https:// with a host, or `disabled`, not {shown_url(url)!r}")


def _check_health(health: HealthSettings) -> None:
    if health.interval_secs <= 0:
        raise _bad("health.interval_secs must be above 0")
    if health.trial_boots < 1:
        raise _bad(f"health.trial_boots must be at least 1, not {health.trial_boots}")
    if any(not command for command in health.commands):
        raise _bad("health.commands has an empty list; each is a program and its arguments")
    if any(not unit or unit.startswith("-") or unit.split() != [unit] for unit in health.units):
        raise _bad(f"health.units must be names of units, not {list(health.units)}")


def _check_slots(slots: SlotSettings) -> None:
    if slots.boot_loader not in BOOT_LOADERS:
        raise _bad(f"slots.boot_loader must be one of {', '.join(BOOT_LOADERS)}, not {slots.boot_loader!r}")
    if len(set(slots.labels)) != 2:  # noqa: PLR2004 - A and B
        raise _bad(f"slots.labels must name two partitions, not {list(slots.labels)}")
    verity = slots.verity_labels
    if verity and (len(verity), len({*verity, *slots.labels})) != (2, 4):
        raise _bad(f"slots.verity_labels must name two further partitions or none, not {list(verity)}")
    if not 1 <= slots.tries <= 15:  # noqa: PLR2004 - four bits of the GPT attributes
        raise _bad(f"slots.tries must be 1 to 15, not {slots.tries}")
    for name, path in (("kernel_path", slots.kernel_path), ("initrd_path", slots.initrd_path)):
        if path is not None and "{slot}" not in str(path):
            raise _bad(f"slots.{name} must have {{slot}} in it, for each slot has its own, not {path}")


def _check_download(download: DownloadSettings) -> None:
    least, most = download.min_bytes_per_sec, download.max_bytes_per_sec
    if 0 < most < least:
        raise _bad(
            f"download.max_bytes_per_sec must be 0 or no less than download.min_bytes_per_sec ({least}), not {most}"
        )
    for host in download.credential_hosts:
        # a name with more around it would never be met, in silence; two colons are an IPv6 address
        if not host or host.count(":") == 1 or any(char in "/@*[]" or char.isspace() for char in host):
            raise _bad(f"download.credential_hosts must be names of hosts without scheme, port and path, not {host!r}")


def _check_proxy(proxy: str | None) -> None:
    if proxy is None:
        return
    try:
        parts = urlsplit(proxy)
        name = (parts.hostname or "").encode("idna")  # a name that can't be one is a ValueError here
        right = parts.scheme in ("http", "https") and bool(name) and parts.port != 0 and proxy.isprintable()
    except ValueError:
        right = False
    if not right or has_user(proxy):  # it isn't repeated, for it may have a password in it
        raise _bad(
            "server.proxy must be http://HOST:PORT or https://HOST:PORT; user and password are server.proxy_user and"
            " server.proxy_password"
        )


def _bad(message: str) -> LocalError:
    return LocalError(
        ErrorCode.CONFIG, message, hint="Correct the file; `update-ctl config check` tells when it is right."
    )
