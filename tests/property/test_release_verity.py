"""The verity trees that `update-payload` makes, with cryptsetup's `veritysetup` as the judge."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.campaign import scale
from updated.release.verity import BLOCK, Superblock, VerityError, make_tree, parse_superblock

SIZES = st.sampled_from([1, 2, 127, 128, 129, 255, 256, 257, 1000, 128 * 128 - 1, 128 * 128, 128 * 128 + 1])
VERITYSETUP = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}


def image(blocks: int, seed: int) -> list[bytes]:
    """Return an image's blocks: few different ones, some of zeros, so that large ones are made at once."""
    chance = random.Random(seed)
    few = [bytes(BLOCK), *(chance.randbytes(BLOCK) for _ in range(5))]
    return [chance.choice(few) for _ in range(blocks)]


def veritysetup(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["veritysetup", *map(str, arguments)], env=VERITYSETUP, capture_output=True, text=True, check=False
    )


@given(
    blocks=SIZES | st.integers(1, 700),
    seed=st.integers(0, 2**32),
    salt=st.binary(max_size=256),
    uuid=st.uuids(version=4),
)
@example(blocks=128 * 128 + 1, seed=1, salt=b"", uuid=UUID(int=0x1234567890AB4DEF8234567890ABCDEF))
@settings(max_examples=scale(60, 600), deadline=None)
def test_the_tree_is_the_one_that_veritysetup_makes(blocks: int, seed: int, salt: bytes, uuid) -> None:
    """For any image, salt and UUID the hash image is veritysetup's own, byte for byte, with the same root hash."""
    content = image(blocks, seed)
    tree = make_tree(content, salt, uuid.bytes)
    with tempfile.TemporaryDirectory() as name:
        data, made = Path(name, "data"), Path(name, "hash")
        data.write_bytes(b"".join(content))
        done = veritysetup("format", f"--salt={salt.hex() or '-'}", f"--uuid={uuid}", data, made)
        assert done.returncode == 0, done.stderr
        theirs = made.read_bytes()
        if blocks == 1:  # veritysetup leaves a block of no meaning behind the superblock
            theirs = theirs[: len(tree.data)]
        assert tree.data == theirs
        assert f"{tree.root_hash}\n" in done.stdout.replace(" ", "").replace("\t", "").replace("Roothash:", "")
        made.write_bytes(tree.data)
        assert veritysetup("verify", data, made, tree.root_hash).returncode == 0


@given(blocks=st.integers(2, 300), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=scale(25, 250), deadline=None)
def test_a_changed_block_is_seen(blocks: int, seed: int, data) -> None:
    """A bit flipped anywhere in the image or in the tree's hashes makes veritysetup refuse what was right before."""
    content = image(blocks, seed)
    tree = make_tree(content, b"salt", bytes(range(16)))
    whole, hashes = bytearray(b"".join(content)), bytearray(tree.data)
    victim = whole if data.draw(st.booleans()) else hashes
    used = len(whole) if victim is whole else BLOCK + -(-blocks // 128) * 32 if blocks <= 128 else BLOCK + 32
    bit = data.draw(st.integers(0 if victim is whole else BLOCK * 8, used * 8 - 1))
    victim[bit // 8] ^= 1 << bit % 8
    with tempfile.TemporaryDirectory() as name:
        Path(name, "data").write_bytes(whole)
        Path(name, "hash").write_bytes(hashes)
        assert veritysetup("verify", Path(name, "data"), Path(name, "hash"), tree.root_hash).returncode != 0


@given(st.binary(max_size=1024) | st.binary(max_size=600).map(lambda tail: b"verity\0\0" + tail))
@settings(max_examples=scale(300, 5000))
def test_superblocks_are_read_or_refused(raw: bytes) -> None:
    """Whatever bytes a hash image begins with, they are a superblock that is written back the same, or refused."""
    try:
        found = parse_superblock(raw)
    except VerityError:
        return
    assert parse_superblock(found.encode()) == found


@given(data_blocks=st.integers(0, 2**64 - 1), salt=st.binary(max_size=256), uuid=st.binary(min_size=16, max_size=16))
def test_superblocks_come_back(data_blocks: int, salt: bytes, uuid: bytes) -> None:
    """What a superblock says is read as it was written."""
    assert parse_superblock(Superblock(data_blocks, salt, uuid).encode()) == Superblock(data_blocks, salt, uuid)


@pytest.mark.parametrize("option", ["--hash=sha512", "--data-block-size=1024", "--hash-block-size=1024", "--format=0"])
def test_trees_of_another_kind_are_refused(tmp_path: Path, option: str) -> None:
    """A tree with another hash, another block size or the old format is refused by its superblock."""
    data, made = tmp_path / "data", tmp_path / "hash"
    data.write_bytes(os.urandom(64 * BLOCK))
    done = veritysetup("format", option, data, made)
    assert done.returncode == 0, done.stderr
    with pytest.raises(VerityError):
        parse_superblock(made.read_bytes()[:BLOCK])


def test_no_image_no_tree() -> None:
    """An image without a block has no tree."""
    with pytest.raises(ValueError, match="without a block"):
        make_tree([], b"", bytes(16))
