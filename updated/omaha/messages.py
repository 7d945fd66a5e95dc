"""The values of the protocol: what a request says, what an answer comes to (pure).

Names and numbers after Google's ServerProtocolV3 and update_engine's omaha_request_action.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class App:
    """The application part of a request: product, version and who asks."""

    appid: str
    version: str
    track: str
    bootid: str = ""
    machineid: str = ""
    oem: str = ""
    oemversion: str = ""
    alephversion: str = ""
    machinealias: str = ""
    lang: str = "en-US"
    board: str = ""
    hardware_class: str = ""
    delta_okay: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened on the host: type and result of Google's lists, errorcode where it failed."""

    type: int
    result: int
    errorcode: int | None = None
    previousversion: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One POST."""

    app: App
    installsource: str = "scheduler"  # or ondemandupdate, when a person asked
    ping: bool = True
    updatecheck: bool = True
    events: tuple[Event, ...] = ()
    updater_version: str = "updated-0.1.0"


@dataclass(frozen=True, slots=True)
class Package:
    """A file of an offer; size in bytes, hashes raw."""

    name: str
    size: int
    sha1: bytes | None = None
    sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A release on offer."""

    version: str
    urls: tuple[str, ...]  # of the payload, one for each codebase
    name: str
    size: int
    sha256: bytes | None
    sha1: bytes | None = None
    disable_backoff: bool = False
    max_failures_per_url: int = 10
    is_delta: bool = False
    extra_packages: tuple[Package, ...] = ()
    poll_interval_secs: int | None = None


@dataclass(frozen=True, slots=True)
class NoUpdate:
    """Nothing to do."""

    poll_interval_secs: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the server's side puts into an answer."""

    version: str
    codebases: tuple[str, ...]
    packages: tuple[Package, ...] = field(default_factory=tuple)
