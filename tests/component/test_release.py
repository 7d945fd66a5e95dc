"""update-payload as a release engineer uses it: real images, both versions, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.images import make_erofs, make_tree
from tests.support.processes import run_tool
from tests.support.releases import PRODUCT, Workshop
from updated.errors import ErrorCode, LocalError
from updated.release.sign import keygen

INSPECT_KEYS = {
    "major", "minor", "block_size", "size", "sha256", "product", "channels", "version", "rollback_index", "not_after",
    "signatures", "partitions", "packages",
}  # fmt: skip
DIFFERENT = ("payload", "sha1", "sha256")  # what other signatures change of a release.json


def extracted(payload: Path, out: Path, keys: Path, partition: str = "root") -> bytes:
    done = run_tool("update-payload", "extract", payload, "--keys", keys, "--partition", partition, "--out", out)
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


@pytest.fixture
def keys(tmp_path: Path, workshop: Workshop) -> Path:
    (tmp_path / "keys").mkdir()
    workshop.trust(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.mark.parametrize(
    "changes", [{}, {"major": 1}, {"compression": "xz"}, {"compression": "none"}, {"chunk_kib": 4}]
)
def test_ext4_image_comes_back(tmp_path: Path, workshop: Workshop, keys: Path, changes: dict[str, object]) -> None:
    """An ext4 image that was built into a payload is extracted byte for byte, whatever the version and compression."""
    release = workshop.build(tmp_path, "1.1.0", **changes)
    payload = tmp_path / json.loads(release.read_text())["payload"]
    assert run_tool("update-payload", "verify", payload, "--keys", keys).returncode == 0
    assert extracted(payload, tmp_path / "out", keys) == workshop.image("1.1.0").read_bytes()


def test_erofs_image_comes_back(tmp_path: Path, workshop: Workshop, keys: Path) -> None:
    """An erofs image, whose size is no whole number of chunks, is extracted byte for byte."""
    image = make_erofs(make_tree(tmp_path / "tree", "1.1.0", filler_bytes=2_000_000), tmp_path / "erofs.img")
    release = workshop.build(tmp_path, "1.1.0", image=image)
    payload = tmp_path / json.loads(release.read_text())["payload"]
    assert extracted(payload, tmp_path / "out", keys) == image.read_bytes()


@pytest.mark.parametrize("major", [1, 2])
def test_kernel_comes_back(tmp_path: Path, workshop: Workshop, keys: Path, major: int) -> None:
    """A kernel of any size beside the image comes back, as a procedure in version 1 and a partition in version 2."""
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(os.urandom(1_234_567))
    release = workshop.build(tmp_path, "1.1.0", kernel=kernel, major=major)
    payload = tmp_path / json.loads(release.read_text())["payload"]
    assert extracted(payload, tmp_path / "out", keys, "kernel") == kernel.read_bytes()


@pytest.mark.parametrize("size", [1, 4095, 4096, 65536, 65537, 200_001])
def test_image_of_any_size_comes_back(tmp_path: Path, workshop: Workshop, keys: Path, size: int) -> None:
    """An image that is no whole number of blocks or chunks is padded by nobody."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(size))
    release = workshop.build(tmp_path, "1.1.0", image=image)
    payload = tmp_path / json.loads(release.read_text())["payload"]
    assert extracted(payload, tmp_path / "out", keys) == image.read_bytes()


@pytest.mark.parametrize("major", [1, 2])
def test_two_builds_are_the_same(tmp_path: Path, workshop: Workshop, major: int) -> None:
    """The same input makes the same bytes, with one thread or four."""
    made = [workshop.build(tmp_path / str(jobs), "1.1.0", major=major, jobs=jobs) for jobs in (1, 4)]
    payloads = [(path.parent / json.loads(path.read_text())["payload"]).read_bytes() for path in made]
    assert payloads[0] == payloads[1]
    assert made[0].read_text() == made[1].read_text()


def test_inspect_has_the_promised_keys(tmp_path: Path, workshop: Workshop) -> None:
    """`inspect --json` has every promised key, and says what `build` was told."""
    release = workshop.build(tmp_path, "1.1.0", rollback_index=7, not_after=2_000_000_000)
    facts = json.loads(release.read_text())
    done = run_tool("update-payload", "inspect", tmp_path / facts["payload"], "--json")
    shown = json.loads(done.stdout)
    assert set(shown) >= INSPECT_KEYS
    assert (shown["product"], shown["version"], shown["rollback_index"]) == (PRODUCT, "1.1.0", 7)
    assert (shown["size"], shown["sha256"], shown["not_after"]) == (facts["size"], facts["sha256"], 2_000_000_000)
    assert shown["signatures"] == [{"bits": 2048, "version": 2}]
    (partition,) = shown["partitions"]
    assert partition["size"] == workshop.image("1.1.0").stat().st_size
    assert "REPLACE_ZSTD" in partition["operations"]


def test_flipped_bit_is_refused(tmp_path: Path, workshop: Workshop, keys: Path) -> None:
    """`verify` exits with 3 on a payload with one flipped bit, and `extract` leaves no image."""
    release = workshop.build(tmp_path, "1.1.0")
    payload = tmp_path / json.loads(release.read_text())["payload"]
    data = bytearray(payload.read_bytes())
    data[len(data) // 2] ^= 1
    payload.write_bytes(data)
    done = run_tool("update-payload", "verify", payload, "--keys", keys)
    assert (done.returncode, "[operation-hash-mismatch]" in done.stderr) == (3, True)
    out = tmp_path / "out"
    done = run_tool("update-payload", "extract", payload, "--keys", keys, "--partition", "root", "--out", out)
    assert (done.returncode, out.exists()) == (3, False)


@pytest.mark.parametrize("major", [1, 2])
def test_openssl_signs_what_digest_wrote(tmp_path: Path, workshop: Workshop, major: int) -> None:
    """A payload built with a development key is signed by OpenSSL with another, as an HSM would, and verifies."""
    run_tool("update-payload", "keygen", "--out", tmp_path / "hsm")
    release = workshop.build(tmp_path, "1.1.0", major=major)
    payload, signed = tmp_path / json.loads(release.read_text())["payload"], tmp_path / "signed.payload"
    done = run_tool("update-payload", "digest", payload, "--out", tmp_path / "digests")
    digests = [Path(line) for line in done.stdout.splitlines()]
    assert [path.stem for path in digests] == (["payload"] if major == 1 else ["metadata", "payload"])
    for path in digests:
        command = ["openssl", "pkeyutl", "-sign", "-inkey", tmp_path / "hsm/private.pem", "-pkeyopt", "digest:sha256"]
        subprocess.run([*command, "-in", path, "-out", path.with_suffix(".sig")], check=True)
    signatures = [path.with_suffix(".sig") for path in digests]
    assert run_tool("update-payload", "attach", payload, *signatures, "--out", signed).returncode == 0
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted/hsm.pem").write_bytes((tmp_path / "hsm/public.pem").read_bytes())
    facts = json.loads((tmp_path / "signed.release.json").read_text())
    described = (facts["payload"], facts["size"], facts["sha256"])
    assert described == (signed.name, signed.stat().st_size, sha256(signed.read_bytes()).hexdigest())
    assert {**facts, **dict.fromkeys(DIFFERENT)} == {**json.loads(release.read_text()), **dict.fromkeys(DIFFERENT)}
    assert "signed by hsm.pem" in run_tool("update-payload", "verify", signed, "--keys", tmp_path / "trusted").stdout
    assert extracted(signed, tmp_path / "out", tmp_path / "trusted") == workshop.image("1.1.0").read_bytes()


def test_signature_of_another_size_is_refused(tmp_path: Path, workshop: Workshop) -> None:
    """Signatures that don't fit in the place of the old ones are a usage error, and no file is left."""
    release = workshop.build(tmp_path, "1.1.0")
    payload = tmp_path / json.loads(release.read_text())["payload"]
    (tmp_path / "sig").write_bytes(bytes(512))
    for signatures in ([tmp_path / "sig"], [tmp_path / "sig"] * 2):
        done = run_tool("update-payload", "attach", payload, *signatures, "--out", tmp_path / "out")
        assert (done.returncode, (tmp_path / "out").exists()) == (2, False)


def test_keygen_never_replaces_a_key(tmp_path: Path) -> None:
    """A second keygen into the same directory is refused, and the private key is for its owner alone."""
    assert run_tool("update-payload", "keygen", "--out", tmp_path / "keys").returncode == 0
    private = tmp_path / "keys/private.pem"
    before = private.read_bytes()
    done = run_tool("update-payload", "keygen", "--out", tmp_path / "keys")
    assert (done.returncode, private.read_bytes()) == (2, before)
    assert private.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("there", ["public.pem", "private.pem"])
def test_keygen_leaves_no_half_of_a_pair(tmp_path: Path, there: str) -> None:
    """With one of the two files in its way, keygen makes neither and leaves that one as it is."""
    (tmp_path / there).write_text("mine")
    with pytest.raises(LocalError) as caught:
        keygen(tmp_path)
    assert caught.value.code is ErrorCode.USAGE
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {there: "mine"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version", "a/b"], 2),
        (["--compression", "zstd", "--major", "1"], 2),
        (["--chunk-kib", "3"], 2),
        (["--old", "/nonexistent"], 2),
        (["--old", "/bin/sh", "--major", "1"], 2),
        (["--rollback-index", "-1"], 2),
        (["--key", "/nonexistent"], 3),
        (["--not-after", "soon"], 2),
        (["--out", "/proc/nowhere"], 1),
    ],
)
def test_request_that_cannot_be_met(tmp_path: Path, workshop: Workshop, arguments: list[str], code: int) -> None:
    """A build that can't be says why, with its exit code, and leaves no payload."""
    image = tmp_path / "image"
    image.write_bytes(b"x" * 5000)
    usual = {
        "--product": "p", "--channel": "c", "--version": "1", "--rollback-index": "1", "--out": str(tmp_path / "out"),
        "--key": str(workshop.keys / "private.pem"),
    }  # fmt: skip
    given = {**usual, **dict(zip(arguments[::2], arguments[1::2], strict=True))}
    done = run_tool("update-payload", "build", image, *(part for pair in given.items() for part in pair))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/*.payload"))


def test_commands_have_help_with_an_example_and_a_version() -> None:
    """Every command says what it is for, by an example, and which version it is."""
    for name in ("updated", "update-ctl", "update-payload", "update-server", "lockd", "lockctl"):
        assert "example:" in run_tool(name, "--help").stdout
        assert run_tool(name, "--version").stdout.startswith(name)
        assert run_tool(name, "--nonsense").returncode == 2
