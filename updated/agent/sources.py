"""Where the bytes of one install come from: the mirrors of an offer, or what a person gave."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from updated.agent.by_hand import DescriptorSource, Given
from updated.agent.download import Mirrors, open_effort, open_http
from updated.config import Settings
from updated.errors import ErrorCode, RemoteError
from updated.install.fetch import Source
from updated.omaha.protocol import Offer


class Copy(Protocol):
    """A place that has the files of a release."""

    def payload(self) -> Source:
        """Return the payload."""
        ...

    def sibling(self, name: str, size: int) -> Source:
        """Return another file of the release, from beside the payload and from nowhere else."""
        ...


class FileCopy:
    """An open file, and the directory that it is in."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._opened: list[int] = []

    def payload(self) -> Source:
        """Return the file."""
        if self._given.file is None:
            raise AssertionError("a file's copy is made of a file")
        return DescriptorSource(self._given.file, self._given.origin)

    def sibling(self, name: str, size: int) -> Source:
        """Return a file of the directory; a link there leads nowhere.

        Raises:
            RemoteError: DOWNLOAD_TRANSFER; there is none that can be read, as a mirror may lack one.
        """
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._opened.append(os.open(name, flags, dir_fd=self._given.directory))
        except OSError as error:
            raise RemoteError(
                ErrorCode.DOWNLOAD_TRANSFER,
                f"{name} ({size} bytes) can't be read beside {self._given.origin}: {error.strerror}",
                hint="Copy the release's other files into the payload's directory.",
            ) from error
        return DescriptorSource(self._opened[-1], name)

    def close(self) -> None:
        """Give back what was opened here; what was given isn't ours."""
        while self._opened:
            os.close(self._opened.pop())


@contextmanager
def open_copies(
    offer: Offer,
    given: Given | None,
    settings: Settings,
    pause: Callable[[float], object],
    alive: Callable[[], object],
) -> Iterator[Sequence[Copy]]:
    """Open the places that an install may take its bytes from; what was given is closed in the end.

    `pause` and `alive` are those of `Effort`, which all copies share: what came slowly or in vain counts for all.
    A URL that a person gave isn't the server's offer: the user and the password for downloads aren't sent there.

    Raises:
        LocalError: CONFIG; the CA file can't be used.
    """
    if given is not None and given.file is not None:
        copy = FileCopy(given)
        try:
            yield [copy]
        finally:
            copy.close()
            given.close()
        return
    with open_http(settings, anonymous=given is not None) as http:
        effort = open_effort(settings, offer.max_failures_per_url, pause, alive)
        yield [Mirrors(http, offer.urls[first:], offer.size or None, effort) for first in range(len(offer.urls))]
