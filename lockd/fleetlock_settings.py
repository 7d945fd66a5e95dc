"""The `[fleetlock]` table of the policy file: where the lock manager of strategy `fleetlock` is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lockd import fleetlock_codec as codec
from lockd.errors import ErrorCode, LocalError
from updated.common.ownership import read_owned

SECRET_LIMIT = 4096  # bytes


@dataclass(frozen=True, slots=True)
class FleetLockSettings:
    """Where the tickets of strategy `fleetlock` are."""

    base_url: str = ""
    id: str = ""  # none: the id that Zincati would have on this host
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    request_timeout_secs: float = 30.0


def check_fleetlock(settings: FleetLockSettings, group: str) -> None:
    """Check what strategy `fleetlock` needs.

    Raises:
        ValueError: something can't be.
    """
    if not settings.base_url:
        raise ValueError("strategy fleetlock needs fleetlock.base_url, such as https://locks.example.org/")
    try:
        codec.check_base_url(settings.base_url)
    except ValueError as error:
        raise ValueError(f"fleetlock.base_url: {error}") from error
    if not codec.GROUP.fullmatch(group):
        raise ValueError(f"group {group!r}: the FleetLock protocol knows only letters, digits, dots and dashes")
    if settings.id and not codec.ID.fullmatch(settings.id):
        raise ValueError(f"fleetlock.id {settings.id!r} doesn't match {codec.ID.pattern}")
    if bool(settings.cert_file) != bool(settings.key_file):
        raise ValueError("fleetlock.cert_file and fleetlock.key_file go together; ca_file goes alone")
    if settings.request_timeout_secs <= 0:
        raise ValueError("fleetlock.request_timeout_secs must be above 0")


def fleetlock_id(settings: FleetLockSettings, machine_id: str) -> str:
    """Return the id under which this host asks.

    Raises:
        LocalError: STATE; the machine id isn't one that Zincati's can be made of.
    """
    if settings.id:
        return settings.id
    try:
        return codec.zincati_id(machine_id)
    except ValueError as error:
        raise LocalError(
            ErrorCode.STATE, str(error), hint="Repair /etc/machine-id, or set id in [fleetlock] of lockd.toml."
        ) from error


def read_tokens(path: Path | None) -> tuple[str, ...]:
    """Return the lines of a file with secrets, none without a file.

    Raises:
        LocalError: STATE; the file can't be read, or holds none.
    """
    if path is None:
        return ()
    try:
        lines = read_owned(path, SECRET_LIMIT).decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise LocalError(
            ErrorCode.STATE, f"{path} can't be read: {error}", hint="Check the file and who may read it."
        ) from error
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens or not all(token.isprintable() for token in tokens):
        raise LocalError(ErrorCode.STATE, f"{path} holds no token", hint="Put a line of printable ASCII into it.")
    return tokens
