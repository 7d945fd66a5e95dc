"""Who is logged in and what inhibits a shutdown, as logind tells it, and the words for those who are logged in.

A bus without logind, or a logind that doesn't know the question, has neither sessions nor inhibitors to tell of; any
other error counts as a reason not to reboot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lockd.gates import Blocker
from updated.common.bus import Bus, BusCallError, BusError
from updated.common.reboot import LOGIND

NOBODY = tuple(
    f"org.freedesktop.DBus.Error.{name}"
    for name in ("ServiceUnknown", "NameHasNoOwner", "UnknownMethod", "UnknownObject", "UnknownInterface")
)
UNREADABLE = (ValueError, TypeError, AttributeError)  # what an answer of another shape leads to
REMINDERS_SECS = (3600, 1800, 900, 600, 300, 120, 60, 30)  # before the reboot


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in."""

    session_id: str
    user: str
    tty: str


async def inhibitors(bus: Bus) -> tuple[Blocker, ...]:
    """Return who inhibits a shutdown in logind's mode `block`."""
    try:
        (listed,) = await bus.call(*LOGIND, "ListInhibitors")
        return tuple(
            Blocker(
                "inhibitor", f"{who}: {why} (pid {pid})", f"{who} gives its inhibitor lock back", f"{who}, pid {pid}"
            )
            for what, who, why, mode, _uid, pid in listed
            if "shutdown" in what.split(":") and mode.startswith("block")
        )
    except (BusCallError, BusError) as error:
        return _unknown("inhibitors", error)
    except UNREADABLE as error:
        return _unknown("inhibitors", _not_understood("ListInhibitors", error))


async def sessions(bus: Bus) -> tuple[Session, ...]:
    """Return the people who are logged in at a terminal or a seat.

    Raises:
        BusError: logind can't be asked.
        BusCallError: it answers with an error, or with what isn't understood.
    """
    found = []
    try:
        (listed,) = await bus.call(*LOGIND, "ListSessions")
        for session_id, _uid, user, _seat, path in listed:
            tty = await _terminal(bus, path)
            if tty is not None:
                found.append(Session(session_id, user, tty))
    except BusCallError as error:
        if error.name in NOBODY:
            return ()
        raise
    except UNREADABLE as error:
        raise _not_understood("ListSessions", error) from error
    return tuple(found)


async def _terminal(bus: Bus, path: str) -> str | None:
    """Return where a session is; None when it isn't a person's, or just ended."""
    call = (LOGIND[0], path, "org.freedesktop.DBus.Properties", "GetAll", "s", ["org.freedesktop.login1.Session"])
    try:
        (properties,) = await bus.call(*call)
    except BusCallError as error:
        if error.name in NOBODY:
            return None
        raise
    values = {name: variant.value for name, variant in properties.items()}
    if not str(values.get("Class", "user")).startswith("user") or values.get("State") == "closing":
        return None
    return _where(values)


def _where(values: dict[str, Any]) -> str | None:
    tty, display, remote = (str(values.get(name) or "") for name in ("TTY", "Display", "RemoteHost"))
    return tty or display or remote or None


def _not_understood(member: str, error: Exception) -> BusCallError:
    return BusCallError(
        "org.freedesktop.DBus.Error.InvalidSignature", f"its answer to {member} isn't understood ({error})"
    )


def _unknown(name: str, error: BusError | BusCallError) -> tuple[Blocker, ...]:
    if isinstance(error, BusCallError) and error.name in NOBODY:
        return ()
    return (Blocker(name, f"logind can't be asked: {error}", "logind answers: `systemctl status systemd-logind`"),)


def reminders_due(before_secs: float, after_secs: float) -> bool:
    """Tell whether a reminder is due when the time left went from `before_secs` to `after_secs` (pure)."""
    return any(after_secs <= mark < before_secs for mark in REMINDERS_SECS)


def wall_text(left_secs: float, reason: str, machine: str) -> str:
    """Return what is told to those who are logged in (pure)."""
    minutes, seconds = divmod(max(round(left_secs), 0), 60)
    when = f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
    return f"{machine} reboots in {when}: {reason}. Save your work and log out."


def names(found: Sequence[Session]) -> str:
    """Return who is logged in, for people (pure)."""
    return ", ".join(f"{session.user} on {session.tty}" for session in found[:5]) + ("…" if len(found) > 5 else "")  # noqa: PLR2004
