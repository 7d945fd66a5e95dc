"""A payload that a person gives to the agent: an open file, or a URL; no server takes part.

A file comes as a descriptor that the person's own command opened, with their rights and in their mount namespace: the
agent's sandbox sees neither /home nor /tmp, and no name can lead elsewhere between a look and a read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from updated.common.urls import is_download_url
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.ranges import Span
from updated.omaha.protocol import Offer

PIECE = 1024 * 1024
ORIGIN_LENGTH = 300  # characters of a path or URL that are kept for people


@dataclass(slots=True)
class Given:
    """What is to be installed; it owns its descriptors."""

    origin: str  # for people to read; nothing is opened by it
    url: str = ""
    file: int | None = None
    directory: int | None = None  # where the file's packages may be
    size: int | None = None  # bytes, of a file
    _closed: bool = field(default=False, repr=False)

    def as_offer(self) -> Offer:
        """Return it in the shape of a server's offer, which promises nothing: neither hash nor version are known."""
        name = self.origin.rpartition("/")[2]
        return Offer(version=name, urls=(self.url,) if self.url else (), name=name, size=self.size or 0, sha256=None)

    def hidden(self, text: str) -> str:
        """Return `text` with the origin in the URL's place: its query may be a secret, and anyone may read a status."""
        return text.replace(self.url, self.origin) if self.url else text

    def close(self) -> None:
        """Give the descriptors back; to be called once nobody reads any more."""
        if not self._closed:
            self._closed = True
            for descriptor in (self.file, self.directory):
                if descriptor is not None:
                    os.close(descriptor)


def given_file(file: int | None, directory: int | None, path: str) -> Given:
    """Take copies of a caller's descriptors, which the caller closes.

    Raises:
        RefusedError: USAGE; they aren't a regular file and a directory, both to be read.
    """
    copies: list[int] = []
    try:
        for descriptor, is_right in ((file, stat.S_ISREG), (directory, stat.S_ISDIR)):
            copies.append(os.dup(-1 if descriptor is None else descriptor))
            if not is_right(os.fstat(copies[-1]).st_mode):
                raise OSError(0, "it is not what it should be")
        size = os.fstat(copies[0]).st_size
        os.pread(copies[0], 1, 0)
    except OSError as error:
        for copy in copies:
            os.close(copy)
        raise RefusedError(
            ErrorCode.USAGE,
            f"{_origin(path)} can't be read as a payload: {error.strerror}",
            hint="Name a regular file that holds a payload.",
        ) from error
    return Given(_origin(path), file=copies[0], directory=copies[1], size=size)


def given_url(url: str) -> Given:
    """Take a URL.

    Raises:
        RefusedError: USAGE; it is none that a payload can be fetched from.
    """
    if not is_payload_url(url):
        raise RefusedError(
            ErrorCode.USAGE,
            f"{_origin(url.partition('?')[0])} is no place to fetch a payload from",
            hint="Write https://HOST/PATH, without a user and a password.",
        )
    bare, mark, _ = url.partition("#")[0].partition("?")
    return Given(_origin(bare) + ("?..." if mark else ""), url=url.partition("#")[0])


def is_payload_url(url: str) -> bool:
    """Tell whether a URL is one to download from, as it goes over the wire."""
    return url.isascii() and is_download_url(url)


def _origin(text: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in text[:ORIGIN_LENGTH])
    return shown if len(text) <= ORIGIN_LENGTH else f"{shown}..."


class DescriptorSource:
    """The bytes of an open file; reads at offsets, so that several readers don't disturb each other."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        """Yield the bytes of spans; fewer than asked for where the file ends early.

        Raises:
            LocalError: DOWNLOAD_TRANSFER.
        """
        for span in spans:
            at = span.begin
            while span.end is None or at < span.end:
                piece = self._read(at, PIECE if span.end is None else min(PIECE, span.end - at))
                if not piece:
                    break
                at += len(piece)
                yield memoryview(piece)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise LocalError(
                ErrorCode.DOWNLOAD_TRANSFER,
                f"{self._name} can't be read at {offset}: {error.strerror}",
                hint="Look at the medium that the file is on.",
            ) from error
