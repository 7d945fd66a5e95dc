"""The agent's state file and rollback floor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from updated.agent.memory import FAILED_LENGTH, HISTORY_LENGTH, OUTBOX_LENGTH, Memory, Store, decode, encode
from updated.confirm.rollback import Pending
from updated.errors import ErrorCode, LocalError

PENDING = Pending("1.0", "1.1", "B", "uuid", 7, "boot", "2026-01-01T00:00:00Z", armed=True)


def test_state_survives_a_restart(tmp_path: Path) -> None:
    """What was saved is what is loaded."""
    memory = Memory(pending=PENDING, failed_versions=["0.9"], outbox=[{"type": 3, "result": 0, "errorcode": 44}])
    memory.note("2026-01-01T00:00:00Z", "installed", "1.1")
    Store(tmp_path).save(memory)
    loaded, damage = Store(tmp_path).load()
    assert (loaded, damage) == (memory, None)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"pending": {"x": 1}}', b'{"outbox": 5}', b"\xff"])
def test_damaged_state_is_set_aside_not_lost(tmp_path: Path, data: bytes) -> None:
    """A state file that can't be read counts as absent, and its bytes are kept for whoever wants to look."""
    (tmp_path / "state.json").write_bytes(data)
    memory, damage = Store(tmp_path).load()
    assert memory == Memory()
    assert damage is not None
    assert (tmp_path / "state.damaged").read_bytes() == data


def test_keys_of_a_newer_agent_are_left_out() -> None:
    """The old slot's agent reads what a newer one wrote before the rollback: it keeps all that it knows itself."""
    pending = Pending("1.0", "1.1", "B", "uuid", 7, "boot", "2026-01-01T00:00:00Z", armed=True)
    memory = Memory(pending=pending, failed_versions=["1.1"])
    raw = json.loads(encode(memory))
    raw["of-the-future"] = raw["pending"]["of-the-future"] = {"x": 1}
    assert decode(json.dumps(raw).encode()) == memory


def test_bad_boots_are_counted_for_one_slot_and_forgotten(tmp_path: Path) -> None:
    """Each trial boot that was bad counts once; another slot's trial begins at none, and so does one after a cut."""
    store = Store(tmp_path)
    assert store.bad_boots("a") == frozenset()
    for boot in ("boot-1", "boot-2", "boot-1"):
        store.note_bad_boot("a", boot)
    assert Store(tmp_path).bad_boots("a") == {"boot-1", "boot-2"}
    assert store.bad_boots("b") == frozenset()
    store.forget_bad_boots()
    assert store.bad_boots("a") == frozenset()
    (tmp_path / "bad-boots").write_bytes(b"\xff half a li")
    assert store.bad_boots("a") == frozenset()


def test_every_prefix_of_a_state_file_is_whole_or_refused() -> None:
    """A cut file never turns into another state."""
    data = encode(Memory(pending=PENDING, confirmed_boot_id="b"))
    for length in range(len(data) - 1):
        with pytest.raises(json.JSONDecodeError):
            decode(data[:length])


def test_floor_starts_at_zero_and_is_kept(tmp_path: Path) -> None:
    """A fresh host takes any index; a raised floor survives."""
    store = Store(tmp_path)
    assert store.floor() == 0
    store.raise_floor(12)
    assert Store(tmp_path).floor() == 12


@pytest.mark.parametrize("data", [b"", b"abc", b"-1", b"1.5", b"\xff", b"9" * 100])
def test_unreadable_floor_stops_updates(tmp_path: Path, data: bytes) -> None:
    """A floor that can't be read is never taken for zero: that would let an old release in."""
    (tmp_path / "rollback-floor").write_bytes(data)
    with pytest.raises(LocalError) as caught:
        Store(tmp_path).floor()
    assert caught.value.code is ErrorCode.STATE


def test_unwritable_state_is_reported(tmp_path: Path) -> None:
    """A state directory that is gone is an error with a code, not a traceback."""
    with pytest.raises(LocalError) as caught:
        Store(tmp_path / "gone").save(Memory())
    assert caught.value.code is ErrorCode.STATE


def test_lists_are_bounded() -> None:
    """Neither history nor outbox nor failed versions grow without end; the newest stay."""
    memory = Memory()
    for number in range(500):
        memory.note("", "", str(number))
        memory.queue_event({"n": number})
        memory.remember_failed(str(number))
    assert (len(memory.history), len(memory.outbox), len(memory.failed_versions)) == (
        HISTORY_LENGTH,
        OUTBOX_LENGTH,
        FAILED_LENGTH,
    )
    assert memory.history[-1]["version"] == memory.failed_versions[-1] == "499"
