"""Compressed parts of a patch, unpacked a piece at a time, so that a bomb costs no more than a piece."""

from __future__ import annotations

import bz2
from typing import Protocol

import brotli


class UnpackError(Exception):
    """The data are no such stream, or it is cut off."""


class Unpacker(Protocol):
    """One compressed stream."""

    def read(self, limit: int) -> bytes:
        """Return up to about `limit` more bytes, never none of them before the end.

        Raises:
            UnpackError: malformed or cut off.
        """
        ...

    @property
    def finished(self) -> bool:
        """Whether the stream has ended, with nothing behind it."""
        ...


class Bz2Unpacker:
    """A bzip2 stream."""

    def __init__(self, packed: bytes) -> None:
        self._packed, self._stream = packed, bz2.BZ2Decompressor()

    def read(self, limit: int) -> bytes:
        """Return up to `limit` more bytes.

        Raises:
            UnpackError: malformed, cut off, or followed by something.
        """
        try:
            made = self._stream.decompress(self._packed, limit)
        except (OSError, ValueError) as error:
            raise UnpackError(f"no bzip2 stream: {error}") from error
        self._packed = b""  # the decompressor holds what it has not used yet
        if self._stream.unused_data:
            raise UnpackError("followed by something")
        if not made and not self._stream.eof:
            raise UnpackError("cut off")
        return made

    @property
    def finished(self) -> bool:
        """Whether the stream has ended."""
        return self._stream.eof


class BrotliUnpacker:
    """A brotli stream (RFC 7932); its library refuses what follows the end by itself."""

    def __init__(self, packed: bytes) -> None:
        self._packed, self._stream = packed, brotli.Decompressor()

    def read(self, limit: int) -> bytes:
        """Return about `limit` more bytes; the library makes at least a block of 32 KiB.

        Raises:
            UnpackError: malformed, cut off, or followed by something.
        """
        try:
            made: bytes = self._stream.process(self._packed, output_buffer_limit=limit)
        except brotli.error as error:
            raise UnpackError(f"no brotli stream: {error}") from error
        self._packed = b""
        if not made and not self._stream.is_finished():
            raise UnpackError("cut off")
        return made

    @property
    def finished(self) -> bool:
        """Whether the stream has ended."""
        return bool(self._stream.is_finished())
