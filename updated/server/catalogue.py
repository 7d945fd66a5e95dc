"""The directory that is served: releases as `update-payload build` leaves them, and which channel has which."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from updated.common.durable import read_bounded, write_atomic
from updated.errors import ErrorCode, LocalError
from updated.omaha.messages import Package
from updated.omaha.response import NAME

LIMIT = 1024 * 1024  # bytes of a JSON file
CHANNELS = "channels.json"
EVENTS = "events.jsonl"
EVENTS_BYTES = 16 * 1024 * 1024  # of a file of events, of which there are two at most
SHOWN_BYTES = 1024 * 1024  # of its end that are looked at for the last ones


@dataclass(frozen=True, slots=True)
class Release:
    """One payload, and what goes with it."""

    product: str
    version: str
    payload: Package
    packages: tuple[Package, ...] = ()  # the further files of its manifest


@dataclass(frozen=True, slots=True)
class Channel:
    """What a channel of a product has, and for how many hosts of a hundred."""

    release: Release
    percent: int


class Catalogue:
    """Reads the directory afresh at each question, so that `publish` needs no signal to the server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def channel(self, product: str, name: str) -> Channel | None:
        """Return what a product's channel has, None when it has nothing.

        Raises:
            LocalError: STATE; a file is damaged.
        """
        entry = self._channels().get(f"{product}/{name}")
        if entry is None:
            return None
        return Channel(read_release(self.directory / entry["release"]), int(entry["percent"]))

    def products(self) -> set[str]:
        """Return the products that have a channel."""
        return {key.rpartition("/")[0] for key in self._channels()}

    def offers(self, name: str) -> bool:
        """Tell whether a file is the payload or a further file of a release on offer: nothing else is served.

        Raises:
            LocalError: STATE; a file is damaged.
        """
        releases = {entry["release"] for entry in self._channels().values()}
        found = [read_release(self.directory / path) for path in releases]
        return any(file.name == name for release in found for file in (release.payload, *release.packages))

    def publish(self, release: Path, channel: str, percent: int = 100) -> Release:
        """Offer a release of the directory on a channel.

        Raises:
            LocalError: USAGE or STATE.
        """
        if release.resolve().parent != self.directory.resolve():
            raise LocalError(
                ErrorCode.USAGE,
                f"{release} is not in {self.directory}",
                hint="Copy the payload and its release.json there first.",
            )
        if not 0 <= percent <= 100 or not channel or "/" in channel:  # noqa: PLR2004 - per cent
            raise LocalError(
                ErrorCode.USAGE, f"channel {channel!r} with {percent} per cent can't be", hint="Percent is 0 to 100."
            )
        found = read_release(release)
        for package in (found.payload, *found.packages):
            path = self.directory / package.name
            if not _is_file_of(path, package):
                raise LocalError(
                    ErrorCode.STATE,
                    f"{path} is not the {package.size} bytes that the release has",
                    hint="Build it again, or copy what is missing.",
                )
        with self._alone():
            channels = self._channels()
            channels[f"{found.product}/{channel}"] = {"release": release.name, "percent": percent}
            text = json.dumps(channels, indent=2, sort_keys=True) + "\n"
            write_atomic(self.directory / CHANNELS, text.encode(), 0o644)
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else change the channels meanwhile: each who does reads them, and writes them all."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def note_events(self, entries: list[Mapping[str, Any]]) -> None:
        """Append to events.jsonl; one write, so that two servers' lines don't mix.

        A file that is full becomes events.jsonl.1, in the place of the one before: anybody can send events.
        """
        if not entries:
            return
        path = self.directory / EVENTS
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb", buffering=0) as file:
            file.write(lines.encode())
            full = os.fstat(fd).st_size > EVENTS_BYTES
        if full:
            with suppress(FileNotFoundError):  # another server was first
                path.replace(path.with_name(f"{EVENTS}.1"))

    def last_events(self, count: int) -> list[Any]:
        """Return the last events that were noted, oldest first, of the newest file; a line that is cut is left out."""
        try:
            with (self.directory / EVENTS).open("rb") as file:
                start = max(0, os.fstat(file.fileno()).st_size - SHOWN_BYTES)
                file.seek(start)
                lines = file.read(SHOWN_BYTES).splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines[1 if start else 0 :][-count:]]

    def _channels(self) -> dict[str, dict[str, Any]]:
        path = self.directory / CHANNELS
        try:
            return dict(json.loads(read_bounded(path, LIMIT)))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error


def read_release(path: Path) -> Release:
    """Read a release.json.

    Raises:
        LocalError: STATE; it is missing or damaged.
    """
    try:
        raw = json.loads(read_bounded(path, LIMIT))
        return Release(
            product=str(raw["product"]),
            version=str(raw["version"]),
            payload=_package(raw["payload"], raw),
            packages=tuple(_package(entry["name"], entry) for entry in raw.get("packages", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _package(name: str, raw: Mapping[str, Any]) -> Package:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no plain file name")
    return Package(
        name,
        size=int(raw["size"]),
        sha1=base64.b64decode(raw["sha1"], validate=True),
        sha256=bytes.fromhex(raw["sha256"]),
    )


def _is_file_of(path: Path, package: Package) -> bool:
    """Tell whether a file is what a release says; hosts would refuse any other, though it had the same size."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == package.size and (
                hashlib.file_digest(file, "sha256").digest() == package.sha256
            )
    except OSError:
        return False


def _damaged(path: Path, error: Exception) -> LocalError:
    return LocalError(ErrorCode.STATE, f"{path} can't be read: {error}", hint="Build or publish the release again.")
