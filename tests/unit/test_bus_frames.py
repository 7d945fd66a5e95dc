"""What comes over a D-Bus connection is cut into messages by their heads alone, whatever is in them."""

from __future__ import annotations

import struct

import pytest
from dbus_next import Message, MessageType, Variant
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bus_stranger import CALL, SIGNAL, message
from updated.common.bus_frames import HEAD_LIMIT, NOTHING, FrameError, Head, Splitter, lengths, parse_head
from updated.common.bus_turns import Rate, Turns


def seen(data: bytes, size: int, *, admits: bool = True) -> list[tuple[Head, bytes | None]]:
    splitter = Splitter(lambda _head: admits)
    found = []
    for at in range(0, len(data), size):
        found += splitter.feed(data[at : at + size])
    return found


def test_head_says_what_the_library_wrote() -> None:
    """Every field of a head that dbus-next makes is read, in calls, answers, errors and signals."""
    call = Message(
        destination="org.x.Y", path="/a/b", interface="org.x.I", member="M", signature="sv", serial=5,
        body=["text", Variant("u", 1)],
    )  # fmt: skip
    raw = bytes(call._marshall())
    head_bytes, body_bytes = lengths(raw, 0)
    assert head_bytes + body_bytes == len(raw)
    head = parse_head(raw[:head_bytes])
    assert (head.kind, head.path, head.interface, head.member) == (CALL, "/a/b", "org.x.I", "M")
    assert (head.signature, head.serial, head.body_bytes) == ("sv", 5, body_bytes)
    error = Message(message_type=MessageType.ERROR, error_name="org.x.E", reply_serial=9, serial=6, destination=":1.1")
    head = parse_head(bytes(error._marshall()))
    assert (head.error_name, head.reply_serial) == ("org.x.E", 9)


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_messages_come_whole_wherever_the_line_is_cut(size: int) -> None:
    """The same messages are found in pieces of any size; of those that aren't wanted only the heads."""
    one = message(SIGNAL, "org.x.Y", "/x", "x.Y", "Z", b"ay", struct.pack("<I", 5000) + bytes(5000))
    two = message(CALL, "org.x.Y", "/x", "x.Y", "Q")
    data = one + two + one
    assert [data for _, data in seen(data, size)] == [one, two, one]
    assert [(head.member, data) for head, data in seen(data, size, admits=False)] == [
        ("Z", None),
        ("Q", None),
        ("Z", None),
    ]


def test_body_that_nobody_wants_is_not_kept() -> None:
    """Of a message of 100 MiB that isn't admitted no more than a piece is in memory."""
    splitter = Splitter(lambda _head: False)
    head = message(SIGNAL, "org.x.Y", "/x", "x.Y", "Z", b"av", claimed=100 * 2**20)
    assert len(list(splitter.feed(head))) == 1
    for _ in range(100 * 16):
        assert list(splitter.feed(bytes(65536))) == []
        assert len(splitter._kept) == 0
    assert [found.member for found, _ in splitter.feed(message(CALL, "org.x.Y", "/x", "x.Y", "Q"))] == ["Q"]


def test_endless_head_is_dropped_unread() -> None:
    """A head over its bound is as nothing, and what follows it is found."""
    large = message(CALL, "org.x.Y", "/" + "x" * 2 * HEAD_LIMIT, "x.Y", "Z")
    small = message(CALL, "org.x.Y", "/x", "x.Y", "Q")
    splitter = Splitter(lambda head: head is not NOTHING)
    assert [(head.member, data) for head, data in splitter.feed(large + small)] == [("", None), ("Q", small)]


@pytest.mark.parametrize("start", [b"x", b"\0", b"HTTP/1.1 200 OK\r\n"])
def test_what_is_no_dbus_ends_the_connection(start: bytes) -> None:
    """Where no message can begin there is an error, for nobody could tell where the next one begins."""
    with pytest.raises(FrameError):
        seen(start + bytes(100), 1000)
    with pytest.raises(FrameError):
        seen(struct.pack("<BBBBIII", ord("l"), 1, 0, 1, 2**31, 1, 2**31), 1000)


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_an_error(data: bytes) -> None:
    """No bytes raise anything but our own error."""
    try:
        seen(b"l" + data, 50)
    except FrameError:
        return


@given(st.integers(0, 80), st.binary(min_size=1, max_size=4))
def test_mutated_head_is_read_or_nothing(at: int, change: bytes) -> None:
    """A head with any bytes changed is one that is understood, or nothing; texts in it are ASCII."""
    raw = message(CALL, "org.x.Y", "/x", "x.Y", "Z", b"s")
    head = parse_head(raw[:at] + change + raw[at + len(change) :])
    assert (head.path + head.interface + head.member + head.signature).isascii()


def test_caller_who_makes_many_calls_waits_for_all_who_make_few() -> None:
    """Turns go round by caller, and who has too many waiting gets no further one in."""
    turns: Turns[str] = Turns(each=3, callers=2)
    assert [turns.put("flood", str(number)) for number in range(5)] == [True, True, True, False, False]
    assert turns.put("root", "status")
    assert not turns.put("third", "status")
    assert [turns.take() for _ in range(5)] == ["0", "status", "1", "2", None]
    assert turns.put("third", "status")


def test_rate_is_kept_over_time() -> None:
    """So many at once, then so many a second."""
    now = 0.0
    rate = Rate(10, 2, lambda: now)
    assert [rate.wait_secs() for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]
    now = 0.1
    assert rate.wait_secs() == 0.0
    assert rate.wait_secs() > 0
