"""What update-payload builds, read by a second reader that shares no code with it."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import crau
from tests.support.releases import PRODUCT, Workshop

V1 = Path(__file__).parents[2] / "fixtures/payloads/crau-v1"
KIB = 1024


def built(workshop: Workshop, out: Path, **changes: Any) -> bytes:
    """Build a release of one version; return its payload."""
    release = workshop.build(out, "1.1.0", **changes)
    name: str = json.loads(release.read_text())["payload"]
    return (out / name).read_bytes()


def checked(workshop: Workshop, out: Path, **changes: Any) -> crau.Checked:
    return crau.check(built(workshop, out, **changes), (workshop.keys / "public.pem").read_bytes())


def test_checker_agrees_with_update_engine() -> None:
    """The checker holds for a payload of update_engine's own generator, so its rules are the real ones."""
    found = crau.check((V1 / "full-signed-kernel.bin").read_bytes(), (V1 / "key-a.pub.pem").read_bytes())
    assert found.images["root"] == lzma.decompress((V1 / "new.img.xz").read_bytes())
    assert found.images["kernel"] == (V1 / "vmlinuz-new").read_bytes()
    assert (found.major, found.identity, found.signature_versions) == (1, {}, [2])
    assert found.longest_write == 1024 * KIB


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, {crau.ZERO, crau.REPLACE_ZSTD}),
        ({"compression": "xz"}, {crau.ZERO, crau.REPLACE_XZ}),
        ({"compression": "bz2"}, {crau.ZERO, crau.REPLACE_BZ}),
        ({"compression": "none"}, {crau.ZERO, crau.REPLACE}),
        ({"chunk_kib": 4}, {crau.ZERO, crau.REPLACE_ZSTD}),
        ({"major": 1}, {crau.REPLACE_BZ}),
        ({"major": 1, "compression": "none"}, {crau.REPLACE}),
    ],
)
def test_image_is_read_by_the_checker(
    tmp_path: Path, workshop: Workshop, changes: dict[str, Any], kinds: set[int]
) -> None:
    """Each version and compression makes a payload whose rules, signatures and image hold for a stranger."""
    found = checked(workshop, tmp_path, **changes)
    assert found.images == {"root": workshop.image("1.1.0").read_bytes()}
    assert set(found.operations["root"]) >= kinds
    assert set(found.operations["root"]) <= kinds | {crau.REPLACE}
    chunk = 1024 if changes.get("major") == 1 else changes.get("chunk_kib", 256)  # inside of a large file
    assert found.longest_write <= chunk * KIB


def test_identity_is_where_the_format_says(tmp_path: Path, workshop: Workshop) -> None:
    """Product, channels, version, rollback index and end of validity are in the fields 1000 to 1004."""
    found = checked(workshop, tmp_path, channel="beta", rollback_index=2**40, not_after=2_000_000_000)
    assert found.identity == {
        "product": PRODUCT,
        "channels": ["beta"],
        "version": "1.1.0",
        "rollback_index": 2**40,
        "not_after": 2_000_000_000,
    }


@pytest.mark.parametrize("major", [1, 2])
@pytest.mark.parametrize("size", [1, 4096, 3 * 1024 * KIB + 1])
def test_kernel_is_read_by_the_checker(tmp_path: Path, workshop: Workshop, major: int, size: int) -> None:
    """A kernel of several chunks, or of one byte, is there, and old clients' no-op operations pass over it."""
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(os.urandom(size))
    found = checked(workshop, tmp_path, kernel=kernel, major=major)
    assert found.images["kernel"] == kernel.read_bytes()
    chunks = -(-size // (1024 * KIB))
    assert len(found.noop_offsets) == (chunks + 1 if major == 1 else 0)


@pytest.mark.parametrize("bits", [3072, 4096])
@pytest.mark.parametrize("major", [1, 2])
def test_larger_keys_are_verified_by_the_checker(tmp_path: Path, workshop: Workshop, bits: int, major: int) -> None:
    """Keys that OpenSSL made, of 3072 and 4096 bits, sign as the format says."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genrsa", "-out", private, str(bits)], check=True, capture_output=True)
    subprocess.run(["openssl", "rsa", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    image = tmp_path / "image"
    image.write_bytes(os.urandom(100_000))
    payload = built(workshop, tmp_path, image=image, key=private, major=major)
    assert crau.check(payload, public.read_bytes()).images["root"] == image.read_bytes()


def flip(at: Callable[[bytes], int]) -> Callable[[bytes], bytes]:
    def flipped(payload: bytes) -> bytes:
        place = at(payload)
        return payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]

    return flipped


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the manifest": flip(lambda _payload: 60),
    "a bit of the data": flip(lambda payload: len(payload) // 2),
    "a bit of the signature": flip(lambda payload: len(payload) - 100),
    "a byte too many": lambda payload: payload + b"\0",
    "a byte too few": lambda payload: payload[:-1],
}


@pytest.mark.parametrize("how", SPOILS)
def test_checker_is_no_yes_man(workshop: Workshop, tmp_path: Path, how: str) -> None:
    """The checker refuses what is spoiled, or its yes would mean nothing."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(100_000))
    payload, public = built(workshop, tmp_path, image=image), (workshop.keys / "public.pem").read_bytes()
    crau.check(payload, public)
    with pytest.raises((AssertionError, IndexError, KeyError)):
        crau.check(SPOILS[how](payload), public)
