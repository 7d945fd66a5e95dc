"""D-Bus messages on the line (pure): where each ends, and what its head says, without a look into its body.

Format after the D-Bus specification, "Message Protocol". A body may have millions of values in mebibytes; whether it
is worth taking apart is told by the head alone, and what isn't is dropped as it comes, without being kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
NO_REPLY = 1  # a flag
FIXED_BYTES = 16  # of a head, up to its fields
HEAD_LIMIT = 8 * 1024  # bytes; each name has at most 255, a path of ours some 40
LONGEST = 2**27  # bytes of a message, as the specification has it
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE, DESCRIPTORS = range(1, 10)
ORDERS = {ord("l"): "<", ord("B"): ">"}


class FrameError(ValueError):
    """What comes is no D-Bus: where the next message begins can't be told."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a message says of itself; texts are empty and numbers 0 where it says nothing."""

    kind: int
    flags: int
    serial: int
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    sender: str = ""
    signature: str = ""
    descriptors: int = 0
    body_bytes: int = 0


NOTHING = Head(0, 0, 0)  # of a message whose head isn't understood


def lengths(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return how many bytes the head and the body of the message at an offset have, of which 16 must be there.

    Raises:
        FrameError: no message begins there.
    """
    order = ORDERS.get(data[at])
    if order is None:
        raise FrameError(f"no message begins with the byte {data[at]}")
    body, _serial, fields = struct.unpack_from(order + "III", data, at + 4)
    head = FIXED_BYTES + (fields + 7) // 8 * 8
    if head + body > LONGEST:
        raise FrameError(f"a message of {head + body} bytes can't be")
    return head, int(body)


def parse_head(data: bytes) -> Head:
    """Read a head of the length that `lengths` told; one that isn't understood is NOTHING."""
    try:
        order = ORDERS[data[0]]
        kind, flags, version = data[1], data[2], data[3]
        body, serial, length = struct.unpack_from(order + "III", data, 4)
        found = dict(_fields(data, order, FIXED_BYTES + length))
        if version != 1:
            return NOTHING
        return Head(
            kind, flags, serial, body_bytes=body, reply_serial=int(found.get(REPLY_SERIAL, 0)),
            descriptors=int(found.get(DESCRIPTORS, 0)), signature=str(found.get(SIGNATURE, "")),
            path=str(found.get(PATH, "")), interface=str(found.get(INTERFACE, "")), member=str(found.get(MEMBER, "")),
            error_name=str(found.get(ERROR_NAME, "")), sender=str(found.get(SENDER, "")),
        )  # fmt: skip
    except (LookupError, struct.error, ValueError):
        return NOTHING


def _fields(data: bytes, order: str, end: int) -> Iterator[tuple[int, str | int]]:
    at = FIXED_BYTES
    while at < end:
        at = (at + 7) & ~7
        code, length, kind = data[at], data[at + 1], data[at + 2]
        if length != 1:
            raise ValueError("a field's type isn't a basic one")
        at += 4
        if kind in b"so":
            (size,) = struct.unpack_from(order + "I", data, at)
            at += 4
        elif kind == ord("g"):
            size = data[at]
            at += 1
        elif kind == ord("u"):
            (number,) = struct.unpack_from(order + "I", data, at)
            yield code, int(number)
            at += 4
            continue
        else:
            raise ValueError("a field's type isn't one that fields have")
        if at + size >= end:
            raise ValueError("a field goes on behind the head")
        yield code, data[at : at + size].decode("ascii")
        at += size + 1


class Splitter:
    """Finds the messages in what comes over a line.

    `admits` decides by the head alone, and always the same for a head, whether a message is kept until it is whole.
    """

    def __init__(self, admits: Callable[[Head], bool]) -> None:
        self._admits = admits
        self._kept = bytearray()
        self._skip = 0  # bytes to come that nobody wants

    def feed(self, data: bytes) -> Iterator[tuple[Head, bytes | None]]:
        """Yield each message that is whole now, and the heads alone of those that aren't admitted.

        Raises:
            FrameError: the line carries no D-Bus.
        """
        dropped = min(self._skip, len(data))
        self._skip -= dropped
        self._kept += data[dropped:] if dropped else data
        at = 0
        while len(self._kept) - at >= FIXED_BYTES:
            head_bytes, body_bytes = lengths(self._kept, at)
            known = head_bytes <= HEAD_LIMIT
            if known and len(self._kept) - at < head_bytes:
                break
            head = parse_head(bytes(self._kept[at : at + head_bytes])) if known else NOTHING
            whole = head_bytes + body_bytes
            if not self._admits(head):
                yield head, None
                self._skip = max(0, at + whole - len(self._kept))
            elif len(self._kept) - at < whole:
                break
            else:
                yield head, bytes(self._kept[at : at + whole])
            at = min(at + whole, len(self._kept))
        del self._kept[:at]
