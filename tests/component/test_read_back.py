"""The reader behind the writers: it never reads what is still to be written, and believes nothing but the medium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.component.test_install import V1, Host, image, key_a
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install import readback
from updated.install.medium import Target
from updated.install.readback import ReadBack, settled_ends
from updated.install.todo import PartTodos, Todos, all_of
from updated.payload.manifest import Extent, Operation, OpType, Partition

BLOCK = 4096
LEGACY = {"policy": {"allow_legacy_payloads": True}}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose reader begins after 64 KiB."""
    monkeypatch.setattr(readback, "PIECE", 16 * 1024)
    monkeypatch.setattr(readback, "STRETCH", 64 * 1024)
    old = image(tmp_path, "old")
    return Host(tmp_path, old, old.stat().st_size)


def put(host: Host) -> None:
    """Install update_engine's own full payload."""
    host.install(V1 / "full-signed-kernel.bin", key_a(), skip_boot_files=True, **LEGACY)


def test_slot_is_read_back_while_it_is_written(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is final is read back, once, before the last write; the result is the image."""
    stretches: list[tuple[int, int]] = []
    honest = ReadBack._read

    def read(self: ReadBack, begin: int, end: int) -> None:
        stretches.append((begin, end))
        honest(self, begin, end)

    monkeypatch.setattr(ReadBack, "_read", read)
    put(host)
    new = image(host.folder, "new").read_bytes()
    assert host.content("B", len(new)) == new
    assert len(stretches) > 1
    assert [begin for begin, _ in stretches] == [0, *(end for _, end in stretches[:-1])]
    assert stretches[-1][1] == len(new)


def test_medium_that_stores_something_else_is_found_early_or_late(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """One write that is stored wrongly is found, wherever it is."""
    honest = Target._write
    spoilt: list[int] = []

    def write(self: Target, fd: int, offset: int, view: memoryview) -> None:
        wrong = bytes(view[:-1]) + bytes([view[-1] ^ 1]) if not spoilt else view
        spoilt.append(offset)
        honest(self, fd, offset, memoryview(wrong))

    monkeypatch.setattr(Target, "_write", write)
    monkeypatch.setattr(Target, "write_aligned", lambda self, offset, data: self.write(offset, data))
    with pytest.raises(RefusedError) as caught:
        put(host)
    assert caught.value.code is ErrorCode.PARTITION_HASH_MISMATCH
    assert len(spoilt) > 1


def test_medium_that_cannot_be_read_is_reported(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while the reader follows ends the install, as the medium's."""

    def fail(self: Target, offset: int, into: memoryview) -> Any:
        raise LocalError(ErrorCode.READ_BACK, f"{self.name} can't be read at {offset}", hint="See `dmesg`.")

    monkeypatch.setattr(Target, "read_back", fail)
    with pytest.raises(LocalError) as caught:
        put(host)
    assert caught.value.code is ErrorCode.READ_BACK


def part(name: str, order: list[int]) -> Partition:
    """Return a partition whose operations write two blocks each, in this order."""
    operations = tuple(Operation(OpType.ZERO, 0, 0, b"", (), 0, (Extent(2 * at, 2),), 2 * BLOCK) for at in order)
    return Partition(name, operations, None, None, ascending=order == sorted(order))


@given(st.one_of(st.just(list(range(12))), st.permutations(range(12))), st.sets(st.integers(0, 11)))
def test_nothing_is_final_that_is_still_to_be_written(order: list[int], wanted: set[int]) -> None:
    """However operations are ordered: all later ones write behind the end that is told, and one of them right there."""
    numbers = sorted(wanted)
    todos = Todos((all_of(part("kernel", [0, 1])), PartTodos(part("root", order), numbers)))
    end_after = settled_ends(todos, "root", BLOCK)
    for done in range(len(numbers) + 1):
        begins = [2 * order[number] * BLOCK for number in numbers[done:]]
        assert end_after(done) == min(begins) if begins else end_after(done) > 24 * BLOCK
