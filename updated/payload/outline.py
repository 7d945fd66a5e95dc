"""Takes a message's long lists out of its bytes, so that the rest can be read whole and their items one at a time.

Only what is needed of protobuf's encoding (its "Encoding" page): a field is a varint, its number and wire type, and
then a varint, 8 bytes, 4 bytes, or a length and so many bytes. What isn't taken out is left as it stands, for protobuf.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types; groups (3, 4) are none that any payload has
VARINT_BYTES, MORE = 10, 0x80  # at most; set in each byte of it but the last
HEAD_BYTES = 5  # at most, of a varint that is a tag or a length
FIXED = {FIXED64: 8, FIXED32: 4}


class MalformedError(ValueError):
    """The bytes are no message."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the items of a list are, in bytes from the beginning of the whole; 8 bytes of memory for each."""

    begins: array[int] = field(default_factory=lambda: array("I"))
    ends: array[int] = field(default_factory=lambda: array("I"))

    def __len__(self) -> int:
        return len(self.begins)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.begins, self.ends, strict=True)


def take_out(
    raw: memoryview, lists: Collection[int], begin: int = 0, end: int | None = None
) -> tuple[bytes, dict[int, Places]]:
    """Return a message without some of its lists, and where those have their items.

    Args:
        raw: bytes, less than 4 GiB.
        lists: field numbers; their items have lengths (they are messages).
        begin: where in `raw` the message begins.
        end: where it ends; None: with `raw`.

    Raises:
        MalformedError: it is cut short, or has a group.
    """
    end = len(raw) if end is None else end
    found = {number: Places() for number in lists}
    tags = {number << 3 | LENGTH: places for number, places in found.items()}
    rest, at = bytearray(), begin
    while at < end:
        tag, body = _varint(raw, at, end, HEAD_BYTES)
        if (places := tags.get(tag)) is None:
            after = _behind(raw, tag & 7, body, end)
            rest += raw[at:after]
        else:
            length, body = _varint(raw, body, end, HEAD_BYTES)
            after = body + length
            places.begins.append(body)
            places.ends.append(min(after, end))
        at = after
    if at > end:
        raise MalformedError("a field goes beyond the end")
    return bytes(rest), found


def _varint(raw: memoryview, at: int, end: int, most: int) -> tuple[int, int]:
    """Return a number of up to `most` bytes, and where it ends."""
    if at < end and (value := raw[at]) < MORE:  # as nearly always
        return value, at + 1
    value = 0
    for place in range(at, min(at + most, end)):
        byte = raw[place]
        value |= (byte & ~MORE) << 7 * (place - at)
        if byte < MORE:
            return value, place + 1
    raise MalformedError("a number is cut short or too long")


def _behind(raw: memoryview, wire_type: int, at: int, end: int) -> int:
    """Return where a field's value ends."""
    if wire_type == VARINT:
        return _varint(raw, at, end, VARINT_BYTES)[1]
    if wire_type == LENGTH:
        length, at = _varint(raw, at, end, HEAD_BYTES)
        return at + length
    if wire_type in FIXED:
        return at + FIXED[wire_type]
    raise MalformedError(f"a field has the wire type {wire_type}")
