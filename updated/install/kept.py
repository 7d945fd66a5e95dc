"""Keeps the bytes of a payload whose metadata are not signed, so that a restart doesn't ask for them again.

Of such a payload (every one of version 1) only the whole is signed: an install that goes on has to hash each byte once
more. So what comes is also written into the journal's folder, as long as its file system has ample room. It is believed
as little as what a mirror sends: what was kept wrongly comes out with another hash, and all is fetched once more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

from updated.common.log import get_logger
from updated.errors import RefusedError, UpdateError
from updated.install.checkpoint import Checkpoint, Journal
from updated.install.fetch import Source
from updated.install.ranges import Span

PIECE = 256 * 1024  # bytes read at once
SHARE = 2  # of the free space no more than one part in so many is taken

log = get_logger("install")


class Keeper:
    """A file that grows as the payload comes; use it as a context.

    A cut, a restart or a failing server leaves it for the next try; a payload that is refused takes it along.
    """

    def __init__(self, journal: Journal | None, at: Checkpoint, begin: int, end: int) -> None:
        """Open what an earlier try left.

        Args:
            journal: where; None: nothing is kept, everything comes from the source.
            at: how much of it is durable (`kept`).
            begin: of the data, in bytes of the payload.
            end: of the payload.

        Raises:
            LocalError: STATE.
        """
        self._journal, self._at, self._begin, self._end = journal, at, begin, end
        self._fd: int | None = None
        self.kept = self._saved = 0  # bytes
        self.lost: str | None = None  # why nothing is kept any more
        if journal is not None:
            self._open(journal)

    def _open(self, journal: Journal) -> None:
        try:
            self._fd = os.open(journal.payload, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            most = min(os.fstat(self._fd).st_size, self._end - self._begin)  # a claim of more is none
            self.kept = self._saved = self._at.kept if self._at.kept <= most else 0
            os.ftruncate(self._fd, self.kept)
            room = os.fstatvfs(self._fd)
        except OSError as error:
            self._give_up(str(error))
            return
        lacking, free = self._end - self._begin - self.kept, room.f_bavail * room.f_frsize
        if lacking * SHARE > free:
            self._give_up(f"{lacking} bytes are to come, {journal.payload.parent} has {free} free")
            return
        journal.sync()  # a checkpoint must not be there before the file that it is about

    @property
    def keeps(self) -> bool:
        """Whether what comes is kept: all of it can be read once more then."""
        return self._fd is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is None or self._journal is None:
            return
        if isinstance(error, RefusedError):
            self._journal.clear()
        else:
            try:
                self._save()
            except UpdateError as failure:
                if error is None:
                    raise
                log.info("not-kept", code=failure.name, message=failure.message)  # the first error is what is reported
        self._close()

    def read(self, source: Source) -> Iterator[memoryview]:
        """Yield the payload from its first data to its end: what was kept, then what the source sends.

        Raises:
            LocalError: STATE.
            UpdateError: what the source raises.
        """
        at = 0
        for piece in self._read_kept():
            at += len(piece)
            yield piece
        if self._begin + at == self._end:
            return
        for piece in source.read([Span(self._begin + at)]):
            self._keep(piece)
            yield piece

    def _read_kept(self) -> Iterator[memoryview]:
        at, end = 0, self.kept
        while self._fd is not None and at < end:
            try:
                piece = os.pread(self._fd, min(PIECE, end - at), at)
            except OSError as error:
                self._give_up(str(error))
                return
            at += len(piece)
            yield memoryview(piece)

    def _keep(self, piece: memoryview) -> None:
        if self._fd is None or self._journal is None:
            return
        piece = piece[: self._end - self._begin - self.kept]  # what a server sends behind the end is an error elsewhere
        try:
            while piece:
                count = os.pwrite(self._fd, piece, self.kept)
                self.kept, piece = self.kept + count, piece[count:]
        except OSError as error:
            self._give_up(str(error))
            return
        if self.kept - self._saved >= self._journal.every_bytes:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, after a flush of what it claims.

        Raises:
            LocalError: STATE.
        """
        if self._fd is None or self._journal is None or self.kept == self._saved:
            return
        try:
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, self.kept, os.POSIX_FADV_DONTNEED)  # nobody reads it soon
        except OSError as error:
            self._give_up(str(error))
            return
        self._saved = self.kept
        self._write_checkpoint(self._journal, self.kept)

    def _give_up(self, why: str) -> None:
        """Keep nothing any more, and take no room: the install goes on without."""
        self.lost = why
        log.warning("not-kept", why=why, now="an install that is cut off begins anew")
        if self._saved and self._journal is not None:
            self._saved = 0
            self._write_checkpoint(self._journal, 0)
        self._close()
        if self._journal is not None:
            self._journal.drop_payload()

    def _write_checkpoint(self, journal: Journal, kept: int) -> None:
        self._at = replace(self._at, kept=kept)
        journal.write(self._at)

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
