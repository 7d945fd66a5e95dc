"""The status that people, scripts and lockd see, from the agent's context (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from updated.agent.backoff import Backoff
from updated.agent.machine import State
from updated.common.errors import OperatorError
from updated.errors import RefusedError
from updated.slots.layout import Slot

# what commands.md promises; states before and after a boot are "idle" with a reason in blocked_by
PUBLIC_STATE = {
    State.STARTING: "idle",
    State.CONFIRMING: "idle",
    State.UNHEALTHY: "idle",
    State.FALLING_BACK: "idle",
}

# update_engine's strings (com.coreos.update1); locksmith and its like wait for UPDATED_NEED_REBOOT
ENGINE_STATE = {
    "idle": "UPDATE_STATUS_IDLE",
    "checking": "UPDATE_STATUS_CHECKING_FOR_UPDATE",
    "downloading": "UPDATE_STATUS_DOWNLOADING",
    "verifying": "UPDATE_STATUS_VERIFYING",
    "finalizing": "UPDATE_STATUS_FINALIZING",
    "need-reboot": "UPDATE_STATUS_UPDATED_NEED_REBOOT",
    "reporting-error": "UPDATE_STATUS_REPORTING_ERROR_EVENT",
}


@dataclass(slots=True)
class View:
    """What the agent knows of itself at this moment; times are RFC 3339, sizes bytes."""

    state: State = State.STARTING
    version_booted: str = ""
    version_new: str | None = None
    slot_booted: str = ""
    slot_target: str | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_reused: int = 0
    last_check: str | None = None
    last_check_unix: int = 0
    last_error: dict[str, Any] | None = None
    next_check: str | None = None
    refusal: str | None = None  # why the last look at the server led to nothing
    backoff: Backoff | None = None  # the release on offer is left alone for now
    boot_id: str = ""
    boot_confirmed: bool = False
    rolled_back: dict[str, str] | None = None
    failed_versions: list[str] = field(default_factory=list)
    update_available: bool = False
    by_hand: str | None = None  # where the payload is from that a person gave; None for the server's


def public_state(view: View) -> str:
    """Return the state under the name that commands.md promises."""
    return PUBLIC_STATE.get(view.state, view.state.value)


def blocked_by(view: View) -> str | None:
    """Return, in one sentence, what keeps this host from going on; None when nothing does."""
    reasons = {
        State.STARTING: "the agent is starting",
        State.CONFIRMING: "the health gate is judging this boot",
        State.UNHEALTHY: _why_unhealthy(view),
        State.FALLING_BACK: "this boot failed its health gate; the reboot to the other slot is on its way",
        State.NEED_REBOOT: "waiting for the reboot (lockd decides when: `lockctl explain`)",
    }
    if view.state is State.IDLE and view.backoff and not view.refusal:
        return view.backoff.why
    return reasons.get(view.state, view.refusal)


def _is_unconfirmable(view: View) -> bool:
    return view.last_error is not None and view.last_error["name"] != "health-failed"


def _why_unhealthy(view: View) -> str:
    """Tell a boot that failed its checks from one that passed them and can't be confirmed, as with a full disk."""
    if view.last_error and _is_unconfirmable(view):
        return f"this boot passed its health gate and can't be confirmed: {view.last_error['message']}"
    return "this boot failed its health gate and there is no slot to fall back to"


def progress(view: View) -> float:
    """Return the share of the payload that is done, 0 to 1."""
    if view.state in (State.VERIFYING, State.FINALIZING, State.NEED_REBOOT):
        return 1.0
    if view.state is not State.DOWNLOADING or not view.bytes_total:
        return 0.0
    return min((view.bytes_done + view.bytes_reused) / view.bytes_total, 1.0)


def as_dict(view: View) -> dict[str, Any]:
    """Return `status --json`; its keys are a promise (see the man page)."""
    return {
        "state": public_state(view),
        "state_detail": view.state.value,
        "version_booted": view.version_booted,
        "version_new": view.version_new,
        "slot_booted": view.slot_booted,
        "slot_target": view.slot_target,
        "progress": round(progress(view), 4),
        "bytes_done": view.bytes_done,
        "bytes_total": view.bytes_total,
        "bytes_reused": view.bytes_reused,
        "last_check": view.last_check,
        "last_error": view.last_error,
        "next_check": view.next_check,
        "blocked_by": blocked_by(view),
        "update_available": view.update_available,
        "boot_id": view.boot_id,
        "boot_confirmed": view.boot_confirmed,
        "rolled_back": view.rolled_back,
        "failed_versions": view.failed_versions,
        "by_hand": view.by_hand,
    }


def as_engine_status(view: View) -> tuple[int, float, str, str, int]:
    """Return update_engine's five values: last check (unix seconds), progress, operation, version, size."""
    return (
        view.last_check_unix,
        progress(view) if view.state is State.DOWNLOADING else 0.0,
        ENGINE_STATE[public_state(view)],
        view.version_new or "0.0.0",
        view.bytes_total if view.version_new else 0,
    )


def error_dict(error: OperatorError, at: str) -> dict[str, Any]:
    """Return `last_error` as status shows it; `at` is RFC 3339."""
    return {
        "code": int(error.code),
        "name": error.name,
        "message": error.message,
        "hint": error.hint,
        "at": at,
        "refused": isinstance(error, RefusedError),  # policy or trust said no: a command exits with 3
    }


def slot_documents(slots: Sequence[Slot], booted: Slot) -> list[dict[str, Any]]:
    """Return `slots --json`: both slots, as the boot loader's data have them."""
    return [
        {
            "name": slot.name,
            "label": slot.label,
            "partuuid": slot.partuuid,
            "size": slot.size,
            "priority": slot.priority,
            "tries": slot.tries,
            "successful": slot.successful,
            "bootable": slot.bootable,
            "booted": slot.partuuid == booted.partuuid,
        }
        for slot in slots
    ]


def explain(view: View) -> list[dict[str, str]]:
    """Return why this host isn't updating or rebooting: what, why, and what would end it; empty when all is well."""
    found: list[dict[str, str]] = []
    reason = blocked_by(view)
    if view.by_hand and view.state in (State.DOWNLOADING, State.VERIFYING, State.FINALIZING):
        reason = f"an install by hand is under way, from {view.by_hand}"
    elif view.by_hand and reason:
        reason += f"; installed by hand from {view.by_hand}"
    if reason:
        found.append({"what": view.state.value, "why": reason, "ends": _what_ends(view)})
    if view.rolled_back:
        version = view.rolled_back["version"]
        found.append(
            {
                "what": "rolled-back",
                "why": f"version {version} was tried and did not boot well ({view.rolled_back['at']})",
                "ends": f"a newer release; or `update-ctl reset`, which lets {version} be tried again",
            }
        )
    if view.last_error:
        error = view.last_error
        why = f"{error['message']} ({error['at']})"
        if error.get("by_hand"):
            why = f"by hand, from {error['by_hand']}: {why}"
        found.append({"what": error["name"], "why": why, "ends": error["hint"]})
    return found


def _what_ends(view: View) -> str:
    if view.state is State.IDLE and view.backoff and not view.refusal:
        return view.backoff.ends
    return {
        State.CONFIRMING: "the checks pass, or their deadline does",
        State.UNHEALTHY: f"{'that ends' if _is_unconfirmable(view) else 'the checks pass'};"
        f" it is tried again at {view.next_check}, or by `update-ctl check`",
        State.FALLING_BACK: "the reboot",
        State.NEED_REBOOT: "the reboot; `update-ctl reset` gives the update up",
        State.DOWNLOADING: "the end of the install",
        State.VERIFYING: "the end of the install",
        State.FINALIZING: "the end of the install",
    }.get(view.state, f"the next check at {view.next_check}")
