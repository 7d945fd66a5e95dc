"""What the agent remembers across restarts and reboots: one JSON file, and the rollback floor beside it.

A state file that can't be read is set aside and treated as absent: it holds nothing that trust depends on. The floor
is different: lose it and an old release could be replayed, so an unreadable floor stops updates until an operator
resets it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from updated.agent import backoff
from updated.agent.backoff import Backoff
from updated.common.durable import read_bounded, remove_durably, write_atomic
from updated.common.text import printable
from updated.confirm.rollback import Pending
from updated.errors import ErrorCode, LocalError

STATE_LIMIT = 1024 * 1024  # bytes
HISTORY_LENGTH = 100  # entries kept
OUTBOX_LENGTH = 32  # events kept for a server that can't be reached
FAILED_LENGTH = 32  # versions remembered as bad
VERSION_LENGTH = 200  # characters; what an answer or a payload may have is shorter


@dataclass(slots=True)
class Memory:
    """The state file's content."""

    pending: Pending | None = None
    confirmed_boot_id: str = ""
    failed_versions: list[str] = field(default_factory=list)
    backoff: Backoff | None = None  # the offered payload that failed last
    rolled_back: dict[str, str] | None = None  # version, at (RFC 3339), boot_id in which it was noticed
    outbox: list[dict[str, Any]] = field(default_factory=list)  # Omaha events not yet told to the server
    last_check: str | None = None
    last_error: dict[str, Any] | None = None
    aleph_version: str = ""  # the first version that ever ran here
    slots: dict[str, dict[str, Any]] = field(default_factory=dict)  # by PARTUUID: version, rollback_index (or null)
    history: list[dict[str, str]] = field(default_factory=list)  # at, what, version, detail; oldest first

    def note(self, at: str, what: str, version: str, detail: str = "") -> None:
        """Add a line to the history, dropping the oldest beyond 100; a long version or detail is cut."""
        entry = {"at": at, "what": what, "version": printable(version, VERSION_LENGTH), "detail": printable(detail)}
        self.history.append(entry)
        del self.history[:-HISTORY_LENGTH]

    def remember_failed(self, version: str) -> None:
        """Remember a version that this host must not take again by itself."""
        version = printable(version, VERSION_LENGTH)
        if version not in self.failed_versions:
            self.failed_versions.append(version)
        del self.failed_versions[:-FAILED_LENGTH]

    def queue_event(self, event: dict[str, Any]) -> None:
        """Put an event into the outbox, dropping the oldest beyond 32."""
        self.outbox.append(event)
        del self.outbox[:-OUTBOX_LENGTH]


def encode(memory: Memory) -> bytes:
    """Write the state file's bytes; an older agent, which may come back, knows of no backoff."""
    raw = dataclasses.asdict(memory)
    if memory.backoff is None:
        del raw["backoff"]
    data = (json.dumps(raw, indent=1) + "\n").encode()
    while len(data) > STATE_LIMIT and raw["history"]:  # a file that the next start can't read would be no memory at all
        del raw["history"][: max(1, len(raw["history"]) // 2)]
        data = (json.dumps(raw, indent=1) + "\n").encode()
    return data


def decode(data: bytes) -> Memory:
    """Read the state file's bytes.

    Raises:
        ValueError: they aren't a state file of ours.
    """
    raw = json.loads(data)
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    raw = _known(Memory, raw)
    try:
        pending = Pending(**_known(Pending, raw.pop("pending"))) if raw.get("pending") else None
        raw.pop("pending", None)
        known = backoff.from_document(raw.pop("backoff", None))
        memory = Memory(pending=pending, backoff=known, **raw)
    except TypeError as error:
        raise ValueError(str(error)) from error
    for name, kind in (
        ("failed_versions", list),
        ("outbox", list),
        ("history", list),
        ("slots", dict),
        ("confirmed_boot_id", str),
    ):
        if not isinstance(getattr(memory, name), kind):
            raise ValueError(f"{name} has the wrong type")
    return memory


def _known(kind: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a newer agent wrote, which may have run here in the other slot before a rollback."""
    names = {known.name for known in dataclasses.fields(kind)}
    return {name: value for name, value in raw.items() if name in names}


class Store:
    """The state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._state = directory / "state.json"
        self._floor = directory / "rollback-floor"
        # A file of its own, for the agent of the old slot, which comes back after a bad trial, may be an older one that
        # refuses a state file with keys that it doesn't know.
        self._bad_boots = directory / "bad-boots"

    def load(self) -> tuple[Memory, str | None]:
        """Read the state; the second value says why it had to be set aside, if it had.

        Raises:
            LocalError: STATE; the directory can't be made or read.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return decode(read_bounded(self._state, STATE_LIMIT)), None
        except FileNotFoundError:
            return Memory(), None
        except ValueError as error:
            self._state.replace(self._state.with_suffix(".damaged"))
            return Memory(), f"state.json was damaged and set aside: {error}"
        except OSError as error:
            raise _state_error(f"{self._state} can't be read: {error.strerror}") from error

    def peek(self) -> Memory:
        """Read the state and leave it as it is; none where there is no file.

        Raises:
            LocalError: STATE; it can't be read, or is damaged.
        """
        try:
            return decode(read_bounded(self._state, STATE_LIMIT))
        except FileNotFoundError:
            return Memory()
        except ValueError as error:
            raise _state_error(f"{self._state} is damaged: {error}") from error
        except OSError as error:
            raise _state_error(f"{self._state} can't be read: {error.strerror}") from error

    def save(self, memory: Memory) -> None:
        """Write the state durably.

        Raises:
            LocalError: STATE; the disk is full or read-only.
        """
        self._write(self._state, encode(memory))

    def floor(self) -> int:
        """Return the lowest rollback index that may be installed; 0 before the first.

        Raises:
            LocalError: STATE; the file is there but is no number.
        """
        try:
            text = read_bounded(self._floor, 64).decode("ascii").strip()
            if not text.isdecimal():
                raise ValueError(f"{text!r} is no number")
            return int(text)
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise _state_error(f"the rollback floor in {self._floor} can't be read: {error}") from error

    def raise_floor(self, index: int) -> None:
        """Write a new floor durably.

        Raises:
            LocalError: STATE; the disk is full or read-only.
        """
        self._write(self._floor, f"{index}\n".encode())

    def bad_boots(self, partuuid: str) -> frozenset[str]:
        """Return the ids of the trial boots of a slot that were judged bad; none where the file can't be read."""
        try:
            lines = read_bounded(self._bad_boots, STATE_LIMIT).decode("ascii").splitlines()
        except (OSError, ValueError):
            return frozenset()  # at worst a trial boot more
        pairs = [line.split() for line in lines]
        return frozenset(pair[1] for pair in pairs if len(pair) == 2 and pair[0] == partuuid)  # noqa: PLR2004 - a pair

    def note_bad_boot(self, partuuid: str, boot_id: str) -> None:
        """Remember durably that a trial boot of a slot was judged bad; what was noted of another slot is forgotten.

        Raises:
            LocalError: STATE; the disk is full or read-only.
        """
        boots = sorted(self.bad_boots(partuuid) | {boot_id})
        self._write(self._bad_boots, "".join(f"{partuuid} {boot}\n" for boot in boots).encode())

    def forget_bad_boots(self) -> None:
        """Forget which trial boots were bad, for another trial begins or this one is over.

        Raises:
            LocalError: STATE; the file system refused.
        """
        try:
            remove_durably(self._bad_boots)
        except OSError as error:
            raise _state_error(f"{self._bad_boots} can't be removed: {error.strerror}") from error

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_atomic(path, data)
        except OSError as error:
            raise _state_error(f"{path} can't be written: {error.strerror}") from error


def _state_error(message: str) -> LocalError:
    return LocalError(
        ErrorCode.STATE,
        message,
        hint="Free space or repair the state directory. A rollback floor that is beyond repair is written again by"
        " `echo INDEX > rollback-floor` with the index of the running release.",
    )
