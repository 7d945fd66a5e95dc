"""Turns the daemon's documents into lines for people (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from updated.common.cli import human_bytes, table

BAR_WIDTH = 30  # characters
UP_TO_DATE, AVAILABLE, IN_PROGRESS, NEED_REBOOT, FAILED = 0, 10, 11, 12, 13
WORKING = ("checking", "downloading", "verifying", "finalizing", "reporting-error")


def status_code(status: Mapping[str, Any]) -> int:
    """Return what `status --exit-code` and `check` exit with."""
    if status["state"] in WORKING:
        return IN_PROGRESS
    if status["state"] == "need-reboot":
        return NEED_REBOOT
    if status["last_error"]:
        return FAILED
    return AVAILABLE if status["update_available"] else UP_TO_DATE


def status_lines(status: Mapping[str, Any]) -> str:
    """Lay out the status, leaving out what isn't there."""
    confirmed = "confirmed" if status["boot_confirmed"] else "not confirmed yet"
    rows = [
        ("state", status["state"]),
        ("running", f"{status['version_booted'] or '?'} in slot {status['slot_booted'] or '?'} ({confirmed})"),
    ]
    if status["version_new"]:
        where = f" in slot {status['slot_target']}" if status["slot_target"] else ""
        rows.append(("new", f"{status['version_new']}{where}"))
    if status["by_hand"]:
        rows.append(("by hand", f"from {status['by_hand']}"))
    if status["state"] in ("downloading", "verifying"):
        rows.append(("progress", progress_text(status)))
    rows.append(("last check", status["last_check"] or "never"))
    rows.append(("next check", status["next_check"] or "none planned"))
    if status["blocked_by"]:
        rows.append(("blocked by", status["blocked_by"]))
    if status["rolled_back"]:
        rows.append(("rolled back", f"{status['rolled_back']['version']} at {status['rolled_back']['at']}"))
    if status["last_error"]:
        error = status["last_error"]
        rows.append(("last error", f"{error['message']} [{error['name']}, {error['at']}]"))
        rows.append(("what to do", error["hint"]))
    return table(rows)


def progress_text(status: Mapping[str, Any]) -> str:
    """Return `42.0 % (13.1 MiB of 31.2 MiB)`."""
    done = status["bytes_done"] + status["bytes_reused"]
    text = f"{status['progress'] * 100:.1f} % ({human_bytes(done)} of {human_bytes(status['bytes_total'])})"
    return f"{text}, {human_bytes(status['bytes_reused'])} reused" if status["bytes_reused"] else text


def bar_line(status: Mapping[str, Any], rate: float | None) -> str:
    """Return one line of a progress bar; `rate` in bytes per second, None when not known yet."""
    filled = round(status["progress"] * BAR_WIDTH)
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    line = f"{status['state']:<13} [{bar}] {progress_text(status)}"
    if status["state"] == "downloading" and rate:
        left = (status["bytes_total"] - status["bytes_done"] - status["bytes_reused"]) / rate
        line += f"  {human_bytes(rate)}/s  {clock(left)} left"
    return line


def clock(secs: float) -> str:
    """Write a duration as `m:ss` or `h:mm:ss`."""
    minutes, seconds = divmod(max(0, round(secs)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def state_line(status: Mapping[str, Any]) -> str:
    """Return one line for a state without progress."""
    installing = status["state"] in ("finalizing", "need-reboot", "reporting-error")
    parts = [status["state"], status["version_new" if installing else "version_booted"] or ""]
    if status["blocked_by"]:
        parts.append(status["blocked_by"])
    elif status["last_error"] and status["state"] in ("idle", "reporting-error"):
        parts.append(f"{status['last_error']['message']} [{status['last_error']['name']}]")
    return "  ".join(parts)


def explain_lines(reasons: Sequence[Mapping[str, str]], gates: Sequence[Mapping[str, Any]] | None) -> str:
    """Lay out the agent's reasons, and lockd's gates when a reboot is waited for."""
    if not reasons:
        return "Nothing holds this host back: it runs what the server offers."
    lines = []
    for reason in reasons:
        lines += [f"{reason['what']}: {reason['why']}", f"  ends with: {reason['ends']}"]
    if gates:
        lines.append("the reboot, as lockd sees it:")
        lines += [
            f"  {gate.get('gate', '?'):<12} {gate.get('state', '?'):<8} {gate.get('reason', '')}" for gate in gates
        ]
    return "\n".join(lines)


def slots_lines(slots: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Lay out both slots, and below them how they were found and what is wrong."""
    rows = [
        (
            ("* " if slot["booted"] else "  ") + slot["name"],
            slot["label"],
            human_bytes(slot["size"]),
            str(slot["priority"]),
            str(slot["tries"]),
            "yes" if slot["successful"] else "no",
            "yes" if slot["bootable"] else "no",
        )
        for slot in slots
    ]
    head = ("  SLOT", "LABEL", "SIZE", "PRIORITY", "TRIES", "CONFIRMED", "BOOTABLE")
    return "\n".join([table(rows, head), *([""] if notes else []), *notes])


def history_lines(history: Sequence[Mapping[str, str]]) -> str:
    """Lay out what was done on this host, oldest first."""
    rows = [(entry["at"], entry["what"], entry["version"], entry["detail"]) for entry in history]
    return table(rows, ("AT", "WHAT", "VERSION", "DETAIL")) if rows else "Nothing was done on this host yet."


def reload_lines(change: Mapping[str, Sequence[str]]) -> str:
    """Say which settings changed, and which will only after a restart."""
    lines = [f"Changed: {', '.join(change['changed'])}."] if change["changed"] else ["Nothing changed."]
    if change["needs_restart"]:
        lines.append(f"Only after `systemctl restart updated`: {', '.join(change['needs_restart'])}.")
    return "\n".join(lines)
