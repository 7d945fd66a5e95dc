"""The reader of UKIs: real ones as binutils sees them, and whatever bytes anybody could hand in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.campaign import scale
from tests.support.uki import make_pe, make_real_uki, make_uki
from updated.release.uki import command_lines, root_hashes
from updated.slots.boot.pe import MOST_SECTIONS, PeError, Read, content, sections

HASH = "ab" * 32


def reader(raw: bytes) -> Read:
    return lambda offset, length: raw[offset : offset + length]


NAMES = st.sampled_from([b".cmdline", b".linux", b".initrd", b".osrel", b".profile"])


def test_sections_of_a_real_uki(tmp_path: Path) -> None:
    """In a UKI that objcopy made of systemd's stub, sections are found where objdump finds them."""
    parts = {".osrel": b"ID=test\n", ".cmdline": f"ro roothash={HASH}".encode(), ".linux": bytes(5000)}
    uki = make_real_uki(tmp_path, tmp_path / "uki.efi", parts)
    raw = uki.read_bytes()
    told = subprocess.run(["objdump", "-h", str(uki)], capture_output=True, text=True, check=True).stdout
    theirs = {}
    for words in map(str.split, told.splitlines()):
        if len(words) == 7 and words[0].isdigit():
            theirs[words[1]] = (int(words[5], 16), int(words[2], 16))
    ours = {found.name.decode(): (found.offset, found.size) for found in sections(reader(raw))}
    assert set(parts) < set(theirs)
    assert {name: ours[name][0] for name in theirs} == {name: place[0] for name, place in theirs.items()}
    for name, written in parts.items():
        offset, size = ours[name]
        assert raw[offset : offset + size].rstrip(b"\0") == written.rstrip(b"\0")
    assert command_lines(memoryview(raw)) == [f"ro roothash={HASH}"]


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=MOST_SECTIONS))
@settings(max_examples=scale(100, 2000))
def test_what_was_written_is_read(parts: list[tuple[bytes, bytes]]) -> None:
    """Sections come back with their names and contents, in their order."""
    raw = make_pe(parts)
    found = [(section.name, raw[section.offset : section.offset + section.size]) for section in sections(reader(raw))]
    assert found == parts


@given(st.binary(max_size=2000) | st.binary(max_size=500).map(lambda tail: b"MZ" + tail))
@settings(max_examples=scale(300, 20000))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """Whatever the bytes are, they are read or refused with a PeError, and of a section whole or not at all."""
    try:
        for section in sections(reader(raw)):
            assert len(content(reader(raw), section, 4000)) <= section.size <= len(raw)
        command_lines(memoryview(raw))
    except PeError:
        pass


@given(st.data())
@settings(max_examples=scale(300, 20000))
def test_damaged_ukis_are_read_or_refused(data) -> None:
    """A UKI with bytes changed in its headers, or cut off, is read or refused, and stays within its bounds."""
    raw = bytearray(make_uki(f"roothash={HASH}"))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.sampled_from([0x3C, 0x3D, 0x86, 0x87, 0x94, 0x95]) | st.integers(0, 600))
        raw[at] = data.draw(st.integers(0, 255))
    cut = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        lines = command_lines(memoryview(bytes(cut)))
    except PeError:
        return
    assert sum(map(len, lines)) <= MOST_SECTIONS * 64 * 1024


@pytest.mark.parametrize(
    ("line", "hashes"),
    [
        ("", []),
        ("quiet ro", []),
        (f"roothash={HASH}", [HASH]),
        (f"ro usrhash={HASH.upper()} quiet", [HASH]),
        (f'"roothash={HASH}" ro', [HASH]),
        (f'roothash="{HASH}"', [HASH]),
        (f"roothash={HASH}\nusrhash={'cd' * 32}", [HASH, "cd" * 32]),
        (f"xroothash={HASH} roothash.x={HASH}", []),
        (f'note="a roothash={HASH}" ro', []),
        ("roothash=", [""]),
        ("roothash", [""]),
    ],
)
def test_root_hashes_of_a_command_line(line: str, hashes: list[str]) -> None:
    """Root hashes are found as the kernel splits its command line, quotes included, and nowhere else."""
    assert root_hashes(line) == hashes


@given(st.text(alphabet='" \tar=', max_size=60))
def test_splitting_takes_everything(line: str) -> None:
    """A root hash behind any arguments is found, unless an open quote swallows it."""
    found = root_hashes(f"{line} roothash={HASH}")
    assert found.count(HASH) == (0 if line.count(chr(34)) % 2 else 1)


def test_too_long_a_command_line_is_refused() -> None:
    """A command line that no kernel takes is refused, not read into memory."""
    with pytest.raises(PeError, match="more than"):
        command_lines(memoryview(make_uki("x" * 70_000)))


def test_a_command_line_that_is_no_text_is_refused() -> None:
    """A command line that isn't UTF-8 is refused."""
    with pytest.raises(PeError, match="no text"):
        command_lines(memoryview(make_pe([(b".cmdline", b"\xff\xfe")])))
