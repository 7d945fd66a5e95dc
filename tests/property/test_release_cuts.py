"""Chunks along files: whatever an image looks like, they make it up, none is too large, files keep to themselves."""

from __future__ import annotations

import random
import struct
import subprocess
import tracemalloc
from array import array
from itertools import accumulate, groupby, islice, pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.campaign import scale
from tests.support.images import ENV, make_erofs, make_ext4
from updated.release.chunks import BLOCK
from updated.release.cuts import ENOUGH, LEAST, MOST, NO_FILE, cut, owners
from updated.release.ext4 import ROOT_INODE, SUPER_MAGIC, SUPERBLOCK_AT, file_blocks

CHUNK = 64 * 1024
USUAL = CHUNK // BLOCK
# whose, and how many blocks: mostly small files, some large ones
RUNS = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.integers(1, 20), st.integers(60, 200))), max_size=20)


def image_of(runs: list[tuple[int, int]]) -> array[int]:
    """Return each block's file."""
    return array("I", [file for file, count in runs for _ in range(count)])


def runs_of(owner: array[int]) -> list[tuple[int, int, int]]:
    """Return first block, length and file of each run."""
    lengths = [(file, len(list(group))) for file, group in groupby(owner)]
    starts = accumulate((length for _, length in lengths), initial=0)
    return [(start, length, file) for start, (file, length) in zip(starts, lengths, strict=False)]


@given(RUNS)
@settings(max_examples=scale(500, 50_000), deadline=None)
def test_chunks_make_up_the_image_and_keep_to_files(runs: list[tuple[int, int]]) -> None:
    """No block is lost or doubled; only in a file is a chunk larger than usual; a large file begins with a chunk."""
    owner = image_of(runs)
    lengths = list(cut(owner, CHUNK))
    cuts = list(accumulate((length // BLOCK for length in lengths), initial=0))
    assert all(length > 0 and length % BLOCK == 0 for length in lengths)
    assert cuts[-1] == len(owner)
    for begin, end in pairwise(cuts):
        assert end - begin <= USUAL * (MOST if owner[end - 1] != NO_FILE else 1)
        for start, length, _file in runs_of(owner):
            if begin < start < end and length >= USUAL * ENOUGH:
                assert start - begin < USUAL * LEAST


def test_image_without_files_has_equal_chunks() -> None:
    """As before there was anything to know: squashfs, or nothing at all."""
    assert list(cut(array("I", [NO_FILE] * 100), CHUNK)) == [CHUNK] * 6 + [4 * BLOCK]
    assert list(cut(array("I"), CHUNK)) == []


def test_owners_are_those_that_debugfs_tells(tmp_path: Path) -> None:
    """Each file of a real ext4 image has its blocks, and nobody else's; an erofs image has no files here."""
    tree, dice = tmp_path / "tree", random.Random(1)
    for number, size in enumerate((1, BLOCK, BLOCK + 1, 70_000, 300_000, 2_000_000)):
        path = tree / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(size))
    image = make_ext4(tree, tmp_path / "image", 16 * 1024 * 1024)
    owner = owners(image)
    numbers = set()
    for path in tree.rglob("f*"):
        command = ["debugfs", "-R", f"blocks /{path.relative_to(tree)}", str(image)]
        told = subprocess.run(command, check=True, env=ENV, capture_output=True, text=True).stdout
        (number,) = {owner[int(block)] for block in told.split()}
        assert number != NO_FILE
        assert owner.count(number) == len(told.split()) == -(-path.stat().st_size // BLOCK)
        numbers.add(number)
    assert len(numbers) == len(list(tree.rglob("f*")))
    assert set(owners(make_erofs(tree, tmp_path / "erofs"))) == {NO_FILE}


def test_damaged_image_is_cut_all_the_same(tmp_path: Path) -> None:
    """Whatever bytes of its metadata are wrong, an image has chunks that make it up."""
    tree, dice = tmp_path / "tree", random.Random(2)
    tree.mkdir()
    for number in range(20):
        (tree / f"f{number}").write_bytes(dice.randbytes(50_000))
    whole = make_ext4(tree, tmp_path / "image", 8 * 1024 * 1024).read_bytes()
    places = [at for at in range(0, len(whole), 64) if any(whole[at : at + 64])]
    for _ in range(scale(60, 2_000)):
        damaged = bytearray(whole)
        for at in dice.choices(places, k=dice.randint(1, 40)):
            damaged[at + dice.randrange(64)] = dice.randrange(256)
        (tmp_path / "damaged").write_bytes(damaged)
        assert sum(cut(owners(tmp_path / "damaged"), CHUNK)) == len(whole)


def test_directories_that_lead_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    """A damaged image whose directories contain their parent twice has an end."""
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/b").mkdir()
    image = make_ext4(tmp_path / "tree", tmp_path / "image", 4 * 1024 * 1024)
    raw, root = bytearray(image.read_bytes()), next(file_blocks(image, BLOCK))
    at, end = root.blocks[0] * BLOCK, (root.blocks[0] + 1) * BLOCK
    while at < end:
        length, name_length = struct.unpack_from("<HB", raw, at + 4)
        if raw[at + 8 : at + 8 + name_length] in (b"a", b"b"):
            struct.pack_into("<I", raw, at, ROOT_INODE)
        at += length
    image.write_bytes(raw)
    assert len(list(islice(file_blocks(image, BLOCK), 100))) < 10


def test_blocks_of_any_size_are_no_reason_to_make_a_huge_number(tmp_path: Path) -> None:
    """A superblock that names blocks of 2**(10 + 2**32) bytes costs no memory."""
    raw = bytearray(8192)
    struct.pack_into("<H", raw, SUPERBLOCK_AT + 0x38, SUPER_MAGIC)
    struct.pack_into("<I", raw, SUPERBLOCK_AT + 0x18, 2**32 - 1)
    (tmp_path / "image").write_bytes(raw)
    tracemalloc.start()
    try:
        assert list(file_blocks(tmp_path / "image", BLOCK)) == []
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()
