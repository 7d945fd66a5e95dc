"""The facts about this machine that a request or a decision needs, read afresh each time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from updated.common.durable import read_bounded
from updated.common.settings import SettingsError, read_key_values
from updated.config import HostSettings
from updated.errors import ErrorCode, LocalError

OEM_RELEASE = (Path("/etc/oem-release"), Path("/usr/share/oem/oem-release"))


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Who this machine is and what it runs."""

    version: str  # of the running system
    machine_id: str  # 32 hex digits
    boot_id: str  # a UUID, new at every boot
    oem: str = ""
    oem_version: str = ""


def read_facts(paths: HostSettings) -> HostFacts:
    """Read the facts; the version is os-release's IMAGE_VERSION, else its VERSION_ID.

    Raises:
        LocalError: STATE; a file is missing or has nothing usable in it.
    """
    try:
        release = read_key_values(paths.os_release)
        oem = next((found for path in OEM_RELEASE if (found := read_key_values(path))), {})
    except SettingsError as error:
        raise _unreadable(str(error)) from error
    version = release.get("IMAGE_VERSION") or release.get("VERSION_ID")
    if not version:
        raise _unreadable(f"{paths.os_release} has neither IMAGE_VERSION nor VERSION_ID")
    return HostFacts(
        version=version,
        machine_id=_one_line(paths.machine_id, r"[0-9a-f]{32}"),
        boot_id=_one_line(paths.boot_id, r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        oem=oem.get("ID", ""),
        oem_version=oem.get("VERSION_ID", ""),
    )


def _one_line(path: Path, pattern: str) -> str:
    try:
        text = read_bounded(path, 256).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise _unreadable(f"{path} can't be read: {error}") from error
    if not re.fullmatch(pattern, text):
        raise _unreadable(f"{path} holds {text!r}, not what it should")
    return text


def _unreadable(message: str) -> LocalError:
    return LocalError(ErrorCode.STATE, message, hint="Repair the file, or name another in the [host] settings.")
