"""The settings of what is looked at on this host: sessions, alerts, hooks (pure; checked by `check_local`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from updated.common.urls import check_http_url

SESSION_POLICIES = ("ignore", "warn", "block")
ANNOUNCERS = ("logind", "command", "nobody")
FAILURE_POLICIES = ("stop", "ignore")
HOOK_DIRS = (Path("/etc/lockd"), Path("/run/lockd"), Path("/usr/lib/lockd"))  # without hooks.dirs; any may be missing


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What logged-in people mean."""

    policy: str = "warn"  # ignore; warn: a countdown, then the reboot; block: as long as they are there
    grace_secs: float = 300.0  # of the countdown
    announce: str = "logind"  # who tells them: logind, which may write to every terminal; command; nobody
    wall_command: tuple[str, ...] = ()  # with announce = command: the text is its last argument


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """The Prometheus to ask, and what."""

    url: str = ""  # none: nobody is asked
    query: str = 'ALERTS{alertstate="firing"}'
    timeout_secs: float = 10.0
    ca_file: Path | None = None
    token_file: Path | None = None


@dataclass(frozen=True, slots=True)
class HookSettings:
    """Where the administrator's programs are, and how long each may take."""

    dirs: tuple[
        Path, ...
    ] = ()  # hold blockers.d, pre-reboot.d, post-boot.d; none: /etc, /run, /usr/lib, each with lockd
    blocker_timeout_secs: float = 30.0
    pre_reboot_timeout_secs: float = 600.0
    post_boot_timeout_secs: float = 600.0
    on_pre_reboot_failure: str = "stop"  # or ignore: reboot all the same
    on_post_boot_failure: str = "stop"  # the slot is kept and the hooks are run again; or ignore


def check_local(sessions: SessionSettings, alerts: AlertSettings, hooks: HookSettings) -> None:
    """Check what can be known of them beforehand.

    Raises:
        ValueError: something can't be meant.
    """
    _check_sessions(sessions)
    if alerts.url:
        _check_alerts_url(alerts.url)
    if alerts.url and not alerts.query.strip():
        raise ValueError("alerts.query is empty")
    for name in ("on_pre_reboot_failure", "on_post_boot_failure"):
        if getattr(hooks, name) not in FAILURE_POLICIES:
            raise ValueError(f"hooks.{name} must be stop or ignore, not {getattr(hooks, name)!r}")
    timeouts = (hooks.blocker_timeout_secs, hooks.pre_reboot_timeout_secs, hooks.post_boot_timeout_secs)
    if min(alerts.timeout_secs, *timeouts) <= 0:
        raise ValueError("the timeouts of alerts and hooks must be above 0")


def _check_sessions(sessions: SessionSettings) -> None:
    if sessions.policy not in SESSION_POLICIES:
        raise ValueError(f"sessions.policy must be one of {', '.join(SESSION_POLICIES)}, not {sessions.policy!r}")
    if sessions.announce not in ANNOUNCERS:
        raise ValueError(f"sessions.announce must be one of {', '.join(ANNOUNCERS)}, not {sessions.announce!r}")
    if (sessions.announce == "command") != bool(sessions.wall_command):
        raise ValueError('sessions.announce = "command" and sessions.wall_command go together')


def _check_alerts_url(url: str) -> None:
    try:
        check_http_url(url)
    except ValueError as error:
        raise ValueError(f"alerts.url: {error}") from error
