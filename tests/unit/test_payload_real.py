"""Payloads that update_engine and AOSP made, verified and extracted byte for byte."""

from __future__ import annotations

import lzma
import random
from pathlib import Path

import pytest

from tests.support.campaign import scale
from updated.errors import ErrorCode, RefusedError, UpdateError
from updated.install.keys import read_keyring
from updated.payload.framing import parse_header
from updated.payload.parse import parse_manifest
from updated.payload.trust import Keyring, load_keyring
from updated.release.extract import extract, verify

PAYLOADS = Path(__file__).parents[2] / "fixtures/payloads"
V1, V2 = PAYLOADS / "crau-v1", PAYLOADS / "crau-v2-aosp"


def keyring() -> Keyring:
    return load_keyring({"key-a": (V1 / "key-a.pub.pem").read_bytes()})


def unpacked(path: Path, out: Path) -> Path:
    out.write_bytes(lzma.decompress(path.read_bytes()))
    return out


@pytest.mark.parametrize("name", ["full-signed-kernel.bin", "delta-signed.bin"])
def test_update_engines_signature_is_verified(name: str) -> None:
    """The signature that update_engine's generator made holds with its key, and with no other."""
    assert verify(V1 / name, keyring())[1] == "key-a"


def test_full_payload_makes_the_image_and_the_kernel(tmp_path: Path) -> None:
    """update_engine's full payload comes to its image and its kernel, the last chunk cut to size."""
    full = V1 / "full-signed-kernel.bin"
    extract(full, "root", tmp_path / "root", old=None, keyring=keyring())
    extract(full, "kernel", tmp_path / "kernel", old=None, keyring=keyring())
    assert (tmp_path / "root").read_bytes() == lzma.decompress((V1 / "new.img.xz").read_bytes())
    assert (tmp_path / "kernel").read_bytes() == (V1 / "vmlinuz-new").read_bytes()


def test_delta_turns_the_old_image_into_the_new_in_place(tmp_path: Path) -> None:
    """update_engine's in-place delta (MOVE, BSDIFF) makes the new image and leaves the old one alone."""
    old = unpacked(V1 / "old.img.xz", tmp_path / "old")
    before = old.read_bytes()
    extract(V1 / "delta-signed.bin", "root", tmp_path / "new", old=old, keyring=keyring())
    assert (tmp_path / "new").read_bytes() == lzma.decompress((V1 / "new.img.xz").read_bytes())
    assert old.read_bytes() == before


def test_delta_for_another_image_is_refused(tmp_path: Path) -> None:
    """A delta on the wrong old image comes to an error and leaves no image behind."""
    with pytest.raises(RefusedError):
        extract(
            V1 / "delta-signed.bin",
            "root",
            tmp_path / "out",
            old=unpacked(V1 / "new.img.xz", tmp_path / "old"),
            keyring=keyring(),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("partition", "image"), [("kernel", "disk_ext2_4k"), ("root", "disk_sqfs_default")])
def test_aosp_full_payload_makes_its_images(tmp_path: Path, partition: str, image: str) -> None:
    """AOSP's full payload (REPLACE_BZ, REPLACE_XZ) comes to its two images."""
    extract(V2 / "full_payload.bin", partition, tmp_path / "out", old=None, keyring=None)
    assert (tmp_path / "out").read_bytes() == lzma.decompress((V2 / f"{image}.img.xz").read_bytes())


@pytest.mark.parametrize(
    ("partition", "old", "image"),
    [("kernel", "disk_ext2_4k_empty", "disk_ext2_4k"), ("root", "disk_sqfs_empty", "disk_sqfs_default")],
)
def test_aosp_delta_makes_its_images(tmp_path: Path, partition: str, old: str, image: str) -> None:
    """AOSP's delta (BROTLI_BSDIFF, ZERO, SOURCE_COPY, REPLACE_*) makes both new images of the old ones."""
    source = unpacked(V2 / f"{old}.img.xz", tmp_path / "old")
    extract(V2 / "delta_payload.bin", partition, tmp_path / "out", old=source, keyring=None)
    assert (tmp_path / "out").read_bytes() == lzma.decompress((V2 / f"{image}.img.xz").read_bytes())


def test_unsigned_payload_is_refused() -> None:
    """AOSP's sample is unsigned, so it can't be verified by any key."""
    with pytest.raises(RefusedError) as caught:
        verify(V2 / "full_payload.bin", keyring())
    assert caught.value.code is ErrorCode.METADATA_SIGNATURE_MISSING


def test_every_bit_flip_is_refused(tmp_path: Path) -> None:
    """A flip of any bit of header, manifest or signature, and of a sample of data bits, is refused.

    Left out are the two bytes that hold the signature's version number: nothing looks at it, as in AOSP.
    """
    good = (V1 / "delta-signed.bin").read_bytes()
    header = parse_header(good[:24])
    blob = len(good) - 264
    ends = [*range(header.metadata_size), *range(blob, blob + 3), *range(blob + 5, len(good))]
    chance = random.Random(1)
    places = chance.sample(ends, scale(200, len(ends)))
    places += [chance.randrange(header.metadata_size, blob) for _ in range(scale(100, 10_000))]
    path, ring = tmp_path / "flipped", keyring()
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(UpdateError):
            verify(path, ring)


@pytest.mark.parametrize("cut", [0, 3, 19, 23, 500, 1058, 1059, 5000, 226373])
def test_truncated_payload_is_refused(tmp_path: Path, cut: int) -> None:
    """A payload that ends anywhere before its end is refused."""
    (tmp_path / "cut").write_bytes((V1 / "delta-signed.bin").read_bytes()[:cut])
    with pytest.raises(UpdateError) as caught:
        verify(tmp_path / "cut", keyring())
    assert caught.value.code in (ErrorCode.PAYLOAD_SIZE_MISMATCH, ErrorCode.METADATA_MAGIC)


def test_overlong_payload_is_refused(tmp_path: Path) -> None:
    """A byte after the signature is one too many."""
    (tmp_path / "long").write_bytes((V1 / "delta-signed.bin").read_bytes() + b"x")
    with pytest.raises(UpdateError) as caught:
        verify(tmp_path / "long", keyring())
    assert caught.value.code is ErrorCode.PAYLOAD_SIZE_MISMATCH


def test_manifest_of_update_engine_is_understood() -> None:
    """Sizes, operations and signature of the real delta are read as its generator wrote them."""
    good = (V1 / "delta-signed.bin").read_bytes()
    header = parse_header(good[:24])
    manifest = parse_manifest(good[20 : header.metadata_size], header)
    assert (manifest.major, manifest.block_size) == (1, 4096)
    assert manifest.changes_in_place(manifest.partitions[0])
    assert (manifest.signatures_offset, manifest.signatures_size) == (225051, 264)
    assert manifest.data_length == manifest.signatures_offset
    assert manifest.identity is None


def test_keyring_of_an_empty_directory_is_missing(tmp_path: Path) -> None:
    """A directory without keys is no keyring."""
    with pytest.raises(RefusedError) as caught:
        read_keyring(tmp_path)
    assert caught.value.code is ErrorCode.KEY_MISSING
