"""How this host reaches the files of a release: the settings, turned into sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httpx

from updated.common.web import make_proxy
from updated.config import Settings
from updated.install.effort import Effort
from updated.install.fetch import Credentials, HttpSource, make_http
from updated.install.pace import FetchLimits


def open_http(settings: Settings, *, anonymous: bool = False) -> httpx.Client:
    """Return a client with the settings' CA, proxy, time-out and, unless it is to be anonymous, credentials.

    Raises:
        LocalError: CONFIG.
    """
    server = settings.server
    return make_http(
        ca_file=server.ca_file,
        proxy=make_proxy(server.proxy, server.proxy_user, server.proxy_password),
        timeout_secs=server.timeout_secs,
        credentials=None if anonymous else _credentials(settings),
    )


def _credentials(settings: Settings) -> Credentials | None:
    """Return user and password for the hosts that the settings name; an answer that nobody signed can't add one."""
    download, hosts = settings.download, {host.lower() for host in settings.download.credential_hosts}
    with suppress(ValueError):  # a server.url that is none is reported where it is asked
        hosts.add(urlsplit(settings.server.url).hostname or "")
    return Credentials(download.user, download.password, frozenset(hosts - {""})) if download.user else None


def open_effort(
    settings: Settings, failures_per_url: int, pause: Callable[[float], object], alive: Callable[[], object]
) -> Effort:
    """Return what all downloads of one install share, with the settings' limits."""
    download = settings.download
    limits = FetchLimits(
        deadline_secs=download.deadline_secs,
        min_bytes_per_sec=download.min_bytes_per_sec,
        max_bytes_per_sec=download.max_bytes_per_sec,
        failures_per_url=failures_per_url,
    )
    return Effort(limits, pause=pause, alive=alive, also_http=download.http_redirects)


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The URLs that a payload has, in the order of preference; every other file of its release is beside it."""

    http: httpx.Client
    urls: Sequence[str]
    size: int | None  # of the payload, in bytes
    effort: Effort

    def payload(self) -> HttpSource:
        """Return the payload."""
        return self._source(self.urls, self.size)

    def sibling(self, name: str, size: int) -> HttpSource:
        """Return another file of the release: from the payload's own directory, and from nowhere else."""
        return self._source([urljoin(url, name) for url in self.urls], size)

    def _source(self, urls: Sequence[str], size: int | None) -> HttpSource:
        return HttpSource(urls, http=self.http, expected_size=size, effort=self.effort)
