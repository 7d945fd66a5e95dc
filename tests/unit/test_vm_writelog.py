"""The replay of recorded writes, on logs that are written here by the format's definition."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from tests.support.vm.writelog import DISCARD, FLUSH, FUA, MAGIC, Replay, last_flush, read_log

SECTOR = 512
DISK = 16 * SECTOR
Entry = tuple[int, int, bytes]  # sector, flags, data


def _log(path: Path, entries: list[Entry]) -> Path:
    raw = bytearray(struct.pack("<QQQI", MAGIC, 1, len(entries), SECTOR).ljust(SECTOR, b"\0"))
    for sector, flags, data in entries:
        length = 4 * SECTOR if flags & DISCARD else len(data)
        raw += struct.pack("<QQQQ", sector, length // SECTOR, flags, len(data)).ljust(SECTOR, b"\0") + data
    path.write_bytes(raw)
    return path


def _data(fill: int, sectors: int = 1) -> bytes:
    return bytes([fill]) * (sectors * SECTOR)


RUN = [
    (0, 0, _data(1)),
    (2, 0, _data(2, 2)),
    (0, FLUSH, b""),
    (4, FUA, _data(3)),
    (5, 0, _data(4, 3)),
    (0, DISCARD, b""),
]


def _disk(path: Path) -> Path:
    path.write_bytes(bytes(DISK))
    return path


def _sectors(disk: Path) -> list[int]:
    raw = disk.read_bytes()
    return [raw[start] for start in range(0, len(raw), SECTOR)]


def test_whole_run_is_replayed(tmp_path: Path) -> None:
    """The end of a run has every write at its place, and a discard changes nothing."""
    disk = _disk(tmp_path / "disk")
    Replay(_log(tmp_path / "log", RUN)).apply_all(disk)
    assert _sectors(disk) == [1, 0, 2, 2, 3, 4, 4, 4] + [0] * 8


def test_cut_keeps_what_was_flushed(tmp_path: Path) -> None:
    """Whatever the dice say, what a flush covered and what had FUA is there, and nothing later than the cut."""
    replay = Replay(_log(tmp_path / "log", RUN))
    seen = set()
    for seed in range(60):
        disk = _disk(tmp_path / f"disk-{seed}")
        cut = replay.cut(disk, 5, random.Random(seed))
        found = _sectors(disk)
        assert found[:5] == [1, 0, 2, 2, 3]
        assert found[8:] == [0] * 8
        assert (cut.durable, cut.unflushed) == (3, 2)
        seen.add(tuple(found[5:8]))
    assert {(0, 0, 0), (4, 4, 4)} < seen, "the write that wasn't flushed is there, isn't, or is torn"


def test_same_seed_same_disk(tmp_path: Path) -> None:
    """A cut that was found once can be made again by its seed."""
    replay = Replay(_log(tmp_path / "log", RUN))
    first, again = _disk(tmp_path / "first"), _disk(tmp_path / "again")
    assert replay.cut(first, 5, random.Random(7)) == replay.cut(again, 5, random.Random(7))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(("requests", "durable"), [(0, 0), (2, 0), (3, 3), (6, 3)])
def test_last_flush_counts(tmp_path: Path, requests: int, durable: int) -> None:
    """A cut before the first flush has nothing durable, one behind it all that came before the flush."""
    assert last_flush(read_log(_log(tmp_path / "log", RUN)), requests) == durable


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """A file that isn't a log, or that ends within an entry, is told from an empty run."""
    log = _log(tmp_path / "log", RUN)
    whole = log.read_bytes()
    for broken, message in ((b"short", "too short"), (bytes(64), "no log"), (whole[:600], "ends within entry")):
        log.write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            read_log(log)
