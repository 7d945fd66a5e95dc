"""update-payload asked for what can't be: no traceback, nothing half-written, nothing replaced that isn't a file."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.processes import run_tool, tool
from tests.support.releases import Workshop
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.payload.framing import parse_header
from updated.payload.limits import LIMITS
from updated.release import build as built
from updated.release.attach import attach
from updated.release.extract import extract
from updated.release.packages import PackageFile
from updated.release.sign import load_private_key

MIB = 1024 * 1024


@pytest.fixture
def payload(tmp_path: Path, workshop: Workshop) -> Path:
    """Return a small good payload."""
    (tmp_path / "image").write_bytes(os.urandom(9000))
    release = workshop.build(tmp_path / "good", "1", image=tmp_path / "image")
    return release.parent / str(json.loads(release.read_text())["payload"])


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_kib": 10**12},
        {"chunk_kib": 65 * 1024},
        {"rollback_index": 2**64},
        {"jobs": 10**8},
        {"channel": ""},
        {"channel": "two\nlines"},
        {"channel": "not \udcff UTF-8"},
        {"product": ""},
        {"partition": "a/b"},
        {"partition": "x" * 257},
        {"partition": "usr", "major": 1},
        {"partition": "kernel", "kernel": Path("/bin/sh")},
        {"kernel": Path("/dev/null")},
        {"kernel": Path("/nonexistent")},
        {"packages": (PackageFile(Path("org.example.test-os-2.index")),)},
        {"packages": (PackageFile(Path("org.example.test-os-2.release.json")),)},
    ],
    ids=str,
)
def test_what_hosts_would_refuse_is_not_built(tmp_path: Path, workshop: Workshop, changes: dict[str, object]) -> None:
    """Names, numbers and files that no host takes, or that no manifest can hold, are wrong usage before any work."""
    (tmp_path / "image").write_bytes(b"x" * 5000)
    with pytest.raises(LocalError) as caught:
        workshop.build(tmp_path / "out", "2", image=tmp_path / "image", **changes)
    assert caught.value.code is ErrorCode.USAGE
    assert not (tmp_path / "out").exists()


def test_version_1_ends_at_4_gib_of_data(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets of version 1 have 32 bits: data beyond them are refused with a way out, up to them they are taken."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(300_000))
    assert built.V1_MOST_DATA == 0xFFFFFFFF
    monkeypatch.setattr(built, "V1_MOST_DATA", 300_000)
    workshop.build(tmp_path / "fits", "2", image=image, major=1)
    with pytest.raises(LocalError, match="offsets of version 1") as caught:
        workshop.build(tmp_path / "out", "2", image=image, kernel=image, major=1)
    assert (caught.value.code, "--major" in caught.value.hint) == (ErrorCode.USAGE, True)
    assert list((tmp_path / "out").iterdir()) == []


def test_build_that_breaks_off_leaves_nothing(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that fails while the payload is written leaves no part of it."""
    (tmp_path / "image").write_bytes(b"x" * 5000)

    def fails(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(built, "sign", fails)
    with pytest.raises(LocalError, match="No space left"):
        workshop.build(tmp_path / "out", "2", image=tmp_path / "image")
    assert not list((tmp_path / "out").glob("*.payload*"))


@pytest.mark.parametrize(("bits", "exponent"), [(2048, 3), (2050, 65537)])
def test_key_that_hosts_refuse_signs_nothing(tmp_path: Path, bits: int, exponent: int) -> None:
    """A key with another exponent, or whose signatures have no whole bytes, is refused before it signs."""
    key = generate_private_key(exponent, bits)  # type: ignore[arg-type]
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(RefusedError) as caught:
        load_private_key(path)
    assert caught.value.code is ErrorCode.KEY_WEAK


def test_key_on_an_unknown_curve_is_unreadable(tmp_path: Path) -> None:
    """A private key that the library has no code for is told like any other that can't be read."""
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "ecparam", "-name", "secp112r1", "-genkey", "-noout", "-out", path], check=True)
    with pytest.raises(RefusedError) as caught:
        load_private_key(path)
    assert caught.value.code is ErrorCode.KEY_UNREADABLE


@pytest.mark.parametrize(
    ("out", "code"), [("", 2), ("/", 2), ("{tmp}", 2), ("/dev/null", 2), ("{tmp}/image/x", 1), ("{tmp}/none/x", 1)]
)
def test_extract_to_what_is_no_file(tmp_path: Path, payload: Path, out: str, code: int) -> None:
    """No name, a directory, a device, a path through a file: an error that says so, and everything as it was."""
    out = out.format(tmp=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = run_tool("update-payload", "extract", payload, "--no-verify", "--partition", "root", "--out", out)
    assert (done.returncode, "what to do:" in done.stderr, "Traceback" in done.stderr) == (code, True, False)
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("cut", [30, 300, -1])
def test_attach_to_a_cut_payload_leaves_nothing(tmp_path: Path, payload: Path, cut: int) -> None:
    """A payload that ends early takes no signatures, and there is no file beside it afterwards."""
    whole = payload.read_bytes()
    payload.write_bytes(whole[: cut if cut > 0 else len(whole) - 300])
    (tmp_path / "sig").write_bytes(bytes(256))
    before = sorted(tmp_path.rglob("*"))
    done = run_tool("update-payload", "attach", payload, *[tmp_path / "sig"] * 2, "--out", tmp_path / "signed")
    assert (done.returncode in (1, 3), "Traceback" in done.stderr) == (True, False)
    assert sorted(tmp_path.rglob("*")) == before


def test_full_disk_behind_stdout_is_told(payload: Path) -> None:
    """What can't be printed is an error with its reason, not a traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*tool("update-payload"), "inspect", str(payload)], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_path_that_is_no_utf8_is_printed_as_it_is(tmp_path: Path) -> None:
    """A directory whose name isn't UTF-8 is used, and named in the bytes it has, however strict."""
    out = os.fsencode(tmp_path) + b"/\xff"
    done = subprocess.run(
        [*tool("update-payload"), "keygen", "--out", os.fsdecode(out)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, out + b"/private.pem" in done.stdout) == (0, True), done.stderr


def test_name_that_is_too_long_for_a_file_is_told(tmp_path: Path, workshop: Workshop) -> None:
    """A path that the kernel refuses to look at is an error like any other."""
    (tmp_path / "image").write_bytes(b"x" * 5000)
    done = run_tool(
        "update-payload", "build", tmp_path / "image", "--product", "p", "--channel", "c", "--version", "1",
        "--rollback-index", "1", "--key", workshop.keys / "private.pem", "--out", tmp_path, "--package", "x" * 300,
    )  # fmt: skip
    assert (done.returncode, "too long" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_kernel_that_hosts_find_too_large_is_not_built(tmp_path: Path, workshop: Workshop) -> None:
    """A kernel over the hosts' bound is wrong usage."""
    (tmp_path / "image").write_bytes(b"x" * 5000)
    with (tmp_path / "vmlinuz").open("wb") as kernel:
        kernel.truncate(LIMITS.file_bytes + 1)
    with pytest.raises(LocalError, match="vmlinuz has more than"):
        workshop.build(tmp_path / "out", "2", image=tmp_path / "image", kernel=tmp_path / "vmlinuz")


def test_what_the_parser_refuses_is_not_signed(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in a build: a payload that hosts would refuse isn't published."""
    (tmp_path / "image").write_bytes(b"x" * 5000)
    monkeypatch.setattr(built, "add_packages", lambda manifest, *_: [manifest.packages.add(name="..")][1:])
    with pytest.raises(RefusedError) as caught:
        workshop.build(tmp_path / "out", "2", image=tmp_path / "image")
    assert caught.value.code is ErrorCode.MANIFEST_PARSE
    assert not list((tmp_path / "out").glob("*.payload*"))


@pytest.mark.parametrize(
    "change",
    [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: raw[:1000]],
    ids=["a byte short", "a byte more", "cut"],
)
def test_verify_of_a_file_of_another_length_says_untrusted(
    tmp_path: Path, workshop: Workshop, payload: Path, change: Callable[[bytes], bytes]
) -> None:
    """A payload that is cut off or goes on isn't what was signed, and the exit code says so."""
    (tmp_path / "trusted").mkdir()
    workshop.trust(tmp_path / "trusted")
    payload.write_bytes(change(payload.read_bytes()))
    done = run_tool("update-payload", "verify", payload, "--keys", tmp_path / "trusted")
    assert (done.returncode, "[payload-size-mismatch]" in done.stderr) == (3, True)


def test_extracted_zeros_take_no_room(tmp_path: Path, workshop: Workshop) -> None:
    """Zeros become holes, so that a payload of a few bytes can't fill a disk; the image is the same."""
    image = tmp_path / "image"
    image.write_bytes(b"x" * 4096 + bytes(8 * MIB) + b"y" * 5000)
    release = workshop.build(tmp_path / "out", "2", image=image)
    payload, made = release.with_name(json.loads(release.read_text())["payload"]), tmp_path / "made"
    extract(payload, "root", made, old=None, keyring=None)
    assert made.read_bytes() == image.read_bytes()
    assert made.stat().st_blocks * 512 < MIB


def test_extract_looks_for_room_first(tmp_path: Path, payload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image larger than the free space is refused before a byte of it is written."""
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=1, f_frsize=512))
    with pytest.raises(LocalError) as caught:
        extract(payload, "root", tmp_path / "made", old=None, keyring=None)
    assert caught.value.code is ErrorCode.NO_SPACE
    assert not list(tmp_path.glob("made*"))


def test_attach_to_a_payload_with_a_damaged_description_is_told(tmp_path: Path, payload: Path) -> None:
    """A release.json that isn't one is an error, not a traceback."""
    payload.with_suffix(".release.json").write_text("[")
    header, size = parse_header(payload.read_bytes()[:24]), 256
    assert header.metadata_signature_size == 264
    (tmp_path / "sig").write_bytes(bytes(size))
    with pytest.raises(LocalError) as caught:
        attach(payload, [tmp_path / "sig"] * 2, tmp_path / "signed.payload")
    assert caught.value.code is ErrorCode.STATE
    assert not list(tmp_path.glob("signed*"))
