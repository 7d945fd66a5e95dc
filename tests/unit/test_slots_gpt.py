"""The partition table as bytes."""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updated.errors import ErrorCode, LocalError
from updated.slots.gpt import (
    COREOS_ROOTFS,
    HEADER_SIZE,
    Entry,
    Header,
    Table,
    encode_entries,
    encode_header,
    parse_entries,
    parse_header,
    priority_of,
    set_boot_bits,
    successful_of,
    tries_of,
)
from updated.slots.layout import Layout, find_entries, slot_of

NIBBLES = st.integers(0, 15)


def entry(index: int, label: str, first: int, last: int, *, guid: int = 0, kind: str = COREOS_ROOTFS) -> Entry:
    name = label.encode("utf-16-le").ljust(72, b"\0")
    own = uuid.UUID(int=guid or index + 1).bytes_le
    return Entry(index, struct.pack("<16s16sQQQ72s", uuid.UUID(kind).bytes_le, own, first, last, 0, name))


def table(*entries: Entry) -> Table:
    header = Header(0x10000, 1, 9999, 40, 9000, bytes(range(16)), 2, len(entries), 128, 0)
    return Table(header, entries, 512)


SLOTS = (entry(0, "USR-A", 100, 199), entry(1, "USR-B", 200, 299))


@given(st.integers(0, 2**64 - 1), NIBBLES, NIBBLES, st.booleans())
def test_boot_bits_round_trip_and_leave_others(bits: int, priority: int, tries: int, successful: bool) -> None:
    """Setting the boot bits reads back as set and changes no other of the 64 bits."""
    changed = set_boot_bits(bits, priority=priority, tries=tries, successful=successful)
    assert (priority_of(changed), tries_of(changed), successful_of(changed)) == (priority, tries, successful)
    assert (changed ^ bits) & ~(0x1FF << 48) == 0
    assert 0 <= changed < 2**64


@pytest.mark.parametrize(
    ("bits", "slot"),
    [(0x0101000000000000, (1, 0, True)), (0x0012000000000000, (2, 1, False)), (0x00FF000000000000, (15, 15, False))],
)
def test_boot_bits_are_where_cgpt_has_them(bits: int, slot: tuple[int, int, bool]) -> None:
    """Priority, tries and success are the bits that cgpt shows for known attribute values."""
    assert (priority_of(bits), tries_of(bits), successful_of(bits)) == slot


@pytest.mark.parametrize(("priority", "tries"), [(16, 0), (0, 16), (-1, 0), (0, -1)])
def test_boot_bits_beyond_four_bits_are_refused(priority: int, tries: int) -> None:
    """A value that doesn't fit never spills into a neighbouring field."""
    with pytest.raises(ValueError, match="four bits"):
        set_boot_bits(0, priority=priority, tries=tries, successful=False)


def test_label_ends_at_the_first_nul() -> None:
    """Garbage after the NUL of a name, as other tools leave it, is no part of the label."""
    raw = bytearray(entry(0, "USR-A", 1, 2).raw)
    raw[56 + 12 : 56 + 20] = b"garbage!"
    assert Entry(0, bytes(raw)).label == "USR-A"


def test_header_round_trips_with_what_follows_the_usual_fields() -> None:
    """A header that is longer than usual keeps its tail, under a checksum that covers it."""
    long = table(*SLOTS)
    long = replace(long, header=replace(long.header, tail=b"vendor data"))
    sector = encode_header(long, my_lba=1, alternate_lba=9999, entries_lba=2)
    header = parse_header(sector, 1)
    assert header.tail == b"vendor data"
    assert parse_entries(header, encode_entries(long)) == SLOTS
    with pytest.raises(ValueError, match="checksum"):
        parse_header(sector[: HEADER_SIZE + 3] + b"\xff" + sector[HEADER_SIZE + 4 :], 1)


def crafted(**fields: int) -> bytes:
    """A header with some fields set to what they can't be, under a good checksum."""
    places = {"size": (12, "I"), "my_lba": (24, "Q"), "count": (80, "I"), "entry_size": (84, "I")}
    sector = bytearray(encode_header(table(*SLOTS), my_lba=1, alternate_lba=9999, entries_lba=2))
    for name, value in fields.items():
        struct.pack_into("<" + places[name][1], sector, places[name][0], value)
    struct.pack_into("<I", sector, 16, 0)
    struct.pack_into("<I", sector, 16, zlib.crc32(sector[: fields.get("size", HEADER_SIZE)]))
    return bytes(sector)


@pytest.mark.parametrize(
    ("sector", "why"),
    [
        (b"", "cut off"),
        (bytes(512), "no signature"),
        (crafted(size=91), "size is 91"),
        (crafted(size=513), "size is 513"),
        (crafted(size=2**32 - 1), "size is"),
        (crafted(my_lba=7), "at 7, not 1"),
        (crafted(count=0), "0 entries"),
        (crafted(count=2**32 - 1), "entries of 128 bytes"),
        (crafted(entry_size=64), "of 64 bytes"),
        (crafted(entry_size=2**31), "entries of"),
    ],
)
def test_impossible_headers_are_refused_in_words(sector: bytes, why: str) -> None:
    """A header whose fields can't be is refused before any of them is used, even under a good checksum."""
    with pytest.raises(ValueError, match=why):
        parse_header(sector, 1)


def test_short_entries_are_refused() -> None:
    """An entry array that is cut off is refused, whatever its checksum would be."""
    header = parse_header(encode_header(table(*SLOTS), my_lba=1, alternate_lba=9, entries_lba=2), 1)
    with pytest.raises(ValueError, match="cut off"):
        parse_entries(header, encode_entries(table(*SLOTS))[:-1])


def test_slots_are_found_by_type_and_label() -> None:
    """A partition of another type with a slot's label is no slot."""
    data = "0fc63daf-8483-4772-8e79-3d69d8477de4"
    found = find_entries(table(entry(2, "USR-A", 50, 60, kind=data), *SLOTS), Layout())
    assert found == SLOTS
    slot = slot_of("A", found[0], 512)
    assert (slot.offset, slot.size, slot.bootable) == (100 * 512, 100 * 512, False)


@pytest.mark.parametrize(
    ("entries", "code", "why"),
    [
        (SLOTS[:1], ErrorCode.SLOT_NOT_FOUND, "0 partitions labelled USR-B"),
        ((*SLOTS, entry(2, "USR-B", 300, 399)), ErrorCode.SLOT_NOT_FOUND, "2 partitions labelled USR-B"),
        ((SLOTS[0], entry(1, "USR-B", 199, 299)), ErrorCode.GPT_INVALID, "overlap"),
        ((*SLOTS, entry(2, "DATA", 299, 400)), ErrorCode.GPT_INVALID, "overlap"),
        ((SLOTS[0], entry(1, "USR-B", 200, 299, guid=1)), ErrorCode.GPT_INVALID, "same PARTUUID"),
        ((*SLOTS, entry(2, "DATA", 300, 400, guid=2)), ErrorCode.GPT_INVALID, "same PARTUUID"),
        ((SLOTS[0], entry(1, "USR-B", 299, 200)), ErrorCode.GPT_INVALID, "not all of them usable"),
        ((SLOTS[0], entry(1, "USR-B", 200, 9001)), ErrorCode.GPT_INVALID, "not all of them usable"),
        ((entry(0, "USR-A", 39, 199), SLOTS[1]), ErrorCode.GPT_INVALID, "not all of them usable"),
    ],
)
def test_a_table_where_a_slot_isnt_apart_is_refused(entries: tuple[Entry, ...], code: ErrorCode, why: str) -> None:
    """Slots that are missing, ambiguous, or share bytes or a name with anything else are never used."""
    with pytest.raises(LocalError, match=why) as caught:
        find_entries(table(*entries), Layout())
    assert caught.value.code is code
