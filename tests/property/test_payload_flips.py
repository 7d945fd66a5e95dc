"""A payload of our own with flipped bits is never believed, and never brings out anything but errors of ours."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.campaign import scale
from updated.errors import UpdateError
from updated.install.keys import read_keyring
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import HEADER_BYTES, Header, encode_header, parse_header
from updated.payload.parse import parse_manifest
from updated.release.build import BuildRequest, build
from updated.release.extract import inspect, verify
from updated.release.sign import keygen

SIGNATURE_BYTES = 264  # a Signatures message with one of 2048 bits: 3 bytes of head, 2 of version number, 259 of data
VERSION = range(3, 5)  # the version number's place in it: nothing looks at it, as in AOSP


def built(folder: Path, major: int) -> bytes:
    """Return a small payload with a kernel, signed by a key of its own."""
    keygen(folder / "keys")
    image = folder / "image"
    image.write_bytes(random.Random(major).randbytes(8192) + bytes(8192) + b"text" * 5000)
    request = BuildRequest(
        image=image, product="prod-x", channel="c", version="7.7.7", rollback_index=1, key=folder / "keys/private.pem",
        out=folder, major=major, chunk_kib=4, kernel=image,
    )  # fmt: skip
    build(request)
    (folder / "keys/private.pem").unlink()
    return (folder / "prod-x-7.7.7.payload").read_bytes()


def flipped(data: bytes, *bits: int) -> bytes:
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("major", [1, 2])
def test_no_flipped_bit_is_believed(tmp_path: Path, major: int) -> None:
    """Of header, manifest, both signatures and data, each bit counts, but for the signatures' version numbers."""
    good, path = built(tmp_path, major), tmp_path / "flipped"
    ring = read_keyring(tmp_path / "keys")
    path.write_bytes(good)
    verify(path, ring)

    header = parse_header(good[:HEADER_BYTES])
    blobs = [len(good) - SIGNATURE_BYTES, *([header.metadata_size] if major == 2 else [])]
    spared = {begin + at for begin in blobs for at in VERSION}
    bits = [8 * place + bit for place in range(len(good)) if place not in spared for bit in range(8)]
    for chosen in random.Random(major).sample(bits, scale(1500, len(bits))):
        path.write_bytes(flipped(good, chosen))
        with pytest.raises(UpdateError):
            verify(path, ring)


def with_packages(good: bytes, major: int) -> bytes:
    """Return header and manifest of a payload, with packages and a second channel, as they are before any signature."""
    header = parse_header(good[:HEADER_BYTES])
    manifest = pb.DeltaArchiveManifest.FromString(good[header.header_size : header.metadata_size])
    manifest.channels.append("bêta")
    manifest.packages.add(name="oem-test.raw", size=1, sha256=b"h" * 32, kind="sysext")
    manifest.packages.add(name="x.index", size=2, sha256=b"h" * 32, kind="index")
    raw = manifest.SerializeToString(deterministic=True)
    return encode_header(Header(major, len(raw), header.metadata_signature_size)) + raw


def parse(metadata: bytes) -> bool:
    """Read metadata as the agent reads those of version 1, before a signature is known; tell whether they are taken."""
    try:
        header = parse_header(metadata[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"))
        parse_manifest(metadata[header.header_size : header.metadata_size], header)
    except UpdateError:
        return False
    return True


@pytest.mark.parametrize("major", [1, 2])
def test_flipped_metadata_bring_out_nothing_but_our_errors(tmp_path: Path, major: int) -> None:
    """Every bit of header and manifest flipped, and many pairs of bits: what isn't read is refused by name."""
    good = with_packages(built(tmp_path, major), major)
    assert parse(good)
    bits, chance = range(8 * len(good)), random.Random(major)
    taken = [parse(flipped(good, bit)) for bit in bits]
    assert not all(taken)
    for _ in range(scale(5000, 200_000)):
        parse(flipped(good, *chance.sample(bits, chance.randint(2, 5))))


TEXTS = {
    "product": "prod-x", "version": "7.7.7", "channel": "bêta", "partition": "kernel", "package": "oem-test",
    "kind": "sysext",
}  # fmt: skip


@pytest.mark.parametrize("field", TEXTS)
def test_text_that_is_no_utf8_is_refused(tmp_path: Path, field: str) -> None:
    """A text whose bytes are no UTF-8 is refused wherever a manifest has one."""
    good, before = with_packages(built(tmp_path, 2), 2), TEXTS[field].encode()
    spoiled = good.replace(
        before, before[:-1] + b"\xff", 1
    )  # the index, whose name has product and version, comes later
    assert spoiled != good
    with pytest.raises(UpdateError, match="malformed"):
        parse_raw(spoiled)


def parse_raw(metadata: bytes) -> None:
    header = parse_header(metadata[:HEADER_BYTES])
    parse_manifest(metadata[header.header_size :], header)


@pytest.mark.parametrize("major", [1, 2])
def test_inspect_of_a_flipped_payload_brings_out_nothing_but_our_errors(tmp_path: Path, major: int) -> None:
    """`inspect` verifies nothing, so it reads what is flipped; it shows it or refuses it by name."""
    good, path = built(tmp_path, major), tmp_path / "flipped"
    header = parse_header(good[:HEADER_BYTES])
    chance, shown = random.Random(major), 0
    for _ in range(scale(400, 8000)):
        path.write_bytes(flipped(good, chance.randrange(8 * (header.data_start + 200))))
        try:
            inspect(path)
        except UpdateError:
            continue
        shown += 1
    assert shown
