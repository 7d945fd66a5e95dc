"""Keys of every size, several in one payload, rotation and revocation, as a release engineer and a host see them."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import crau
from tests.support.agent_bench import Bench
from tests.support.processes import run_tool
from updated.errors import ErrorCode, RefusedError
from updated.install.keys import read_keyring
from updated.release.sign import keygen

SIZES = (2048, 3072, 4096)


class Keys:
    """Key pairs by a name that begins with their size, each made when first wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _pair(self, name: str) -> Path:
        folder = self.folder / name
        if not folder.exists():
            keygen(folder, int(name.partition("-")[0]))
        return folder

    def private(self, name: str) -> Path:
        return self._pair(name) / "private.pem"

    def public(self, name: str) -> Path:
        return self._pair(name) / "public.pem"

    def trust(self, folder: Path, *names: str) -> Path:
        """Fill a directory of trusted keys."""
        folder.mkdir(exist_ok=True, parents=True)
        for name in names:
            shutil.copy(self.public(name), folder / f"{name}.pem")
        return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def build(folder: Path, keys: Keys, major: int, *names: str) -> Path:
    """Build a small release signed with these keys, by the command; return its payload."""
    image = folder / "image"
    image.write_bytes(random.Random(1).randbytes(100_000))
    identity = ["--product", "p", "--channel", "c", "--version", "1", "--rollback-index", "1", "--major", str(major)]
    signing = [part for name in names for part in ("--key", keys.private(name))]
    done = run_tool("update-payload", "build", image, *identity, *signing, "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out/p-1.payload"


def verify(payload: Path, trusted: Path) -> tuple[int, str]:
    done = run_tool("update-payload", "verify", payload, "--keys", trusted)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("major", [1, 2])
@pytest.mark.parametrize("bits", SIZES)
def test_key_of_each_size_signs(tmp_path: Path, keys: Keys, bits: int, major: int) -> None:
    """A payload signed with 2048, 3072 or 4096 bits is believed here and by a reader that isn't ours."""
    name = str(bits)
    payload = build(tmp_path, keys, major, name)
    code, said = verify(payload, keys.trust(tmp_path / "trusted", name))
    assert (code, f"signed by {name}.pem" in said) == (0, True), said
    assert crau.check(payload.read_bytes(), keys.public(name).read_bytes()).signature_versions == [2]
    shown = json.loads(run_tool("update-payload", "inspect", payload, "--json").stdout)
    assert shown["signatures"] == [{"bits": bits, "version": 2}]


SEVERAL = [("2048", "4096"), ("4096", "3072", "2048"), tuple(f"2048-{number}" for number in range(8))]


@pytest.mark.parametrize("major", [1, 2])
@pytest.mark.parametrize("names", SEVERAL)
def test_any_of_several_keys_is_enough(tmp_path: Path, keys: Keys, names: tuple[str, ...], major: int) -> None:
    """Each of a payload's signatures, of metadata and of the whole, holds; a host needs to trust one of the keys."""
    payload = build(tmp_path, keys, major, *names)
    pems = [keys.public(name).read_bytes() for name in names]
    found = crau.check(payload.read_bytes(), pems[-1], others=pems[:-1])
    # update_engine looks at the first signature of version 2 and at no other
    assert (found.signature_versions[-1], found.signature_versions.count(2)) == (2, 1)
    for name in names:
        code, said = verify(payload, keys.trust(tmp_path / f"only-{name}", name))
        assert (code, f"signed by {name}.pem" in said) == (0, True), said
    code, said = verify(payload, keys.trust(tmp_path / "stranger", "2048-stranger"))
    assert (code, "-mismatch]" in said) == (3, True), said


@pytest.mark.parametrize("names", [("2048", "2048"), tuple(f"2048-{number}" for number in range(9))])
def test_keys_that_cannot_sign_together(tmp_path: Path, keys: Keys, names: tuple[str, ...]) -> None:
    """One key twice, or more than a host would look at, is a usage error and leaves no payload."""
    (tmp_path / "image").write_bytes(b"x")
    identity = ["--product", "p", "--channel", "c", "--version", "1", "--rollback-index", "1"]
    signing = [part for name in names for part in ("--key", keys.private(name))]
    done = run_tool("update-payload", "build", tmp_path / "image", *identity, *signing, "--out", tmp_path / "out")
    assert (done.returncode, "Traceback" in done.stderr, (tmp_path / "out").exists()) == (2, False, False)


def sign_by_openssl(digest: Path, private: Path, out: Path) -> Path:
    command = ["openssl", "pkeyutl", "-sign", "-inkey", private, "-pkeyopt", "digest:sha256", "-in", digest]
    subprocess.run([*command, "-out", out], check=True)
    return out


@pytest.mark.parametrize("major", [1, 2])
def test_two_hsms_sign_what_digest_wrote(tmp_path: Path, keys: Keys, major: int) -> None:
    """Signatures that OpenSSL made with two keys of two sizes take the place of two development keys' ones."""
    payload = build(tmp_path, keys, major, "2048-dev", "4096-dev")
    done = run_tool("update-payload", "digest", payload, "--out", tmp_path / "digests")
    digests, hsms = [Path(line) for line in done.stdout.splitlines()], ("2048-hsm", "4096-hsm")
    made = [
        sign_by_openssl(digest, keys.private(name), tmp_path / f"{digest.stem}-{name}.sig")
        for digest in digests
        for name in hsms
    ]
    signed = tmp_path / "signed.payload"
    done = run_tool("update-payload", "attach", payload, *made, "--out", signed)
    assert done.returncode == 0, done.stderr
    found = crau.check(
        signed.read_bytes(), keys.public("4096-hsm").read_bytes(), others=[keys.public("2048-hsm").read_bytes()]
    )
    assert found.signature_versions == [1, 2]
    for name in hsms:
        assert verify(signed, keys.trust(tmp_path / name, name))[0] == 0
    assert verify(signed, keys.trust(tmp_path / "dev", "2048-dev", "4096-dev"))[0] == 3


def test_signatures_may_be_attached_in_another_order_of_sizes(tmp_path: Path, keys: Keys) -> None:
    """Signatures that take the same room together fit in any order, and the last one is update_engine's."""
    payload = build(tmp_path, keys, 1, "2048-dev", "4096-dev")
    run_tool("update-payload", "digest", payload, "--out", tmp_path / "digests")
    digest, signed = tmp_path / "digests/payload.sha256", tmp_path / "signed.payload"
    made = [sign_by_openssl(digest, keys.private(name), tmp_path / name) for name in ("4096-hsm", "2048-hsm")]
    assert run_tool("update-payload", "attach", payload, *made, "--out", signed).returncode == 0
    assert crau.check(signed.read_bytes(), keys.public("2048-hsm").read_bytes()).signature_versions == [1, 2]


def publish(bench: Bench, keys: Keys, major: int, *names: str) -> None:
    bench.publish("1.1.0", major=major, key=tuple(keys.private(name) for name in names))


def trust_only(bench: Bench, keys: Keys, *names: str) -> Path:
    """Replace the host's keys."""
    trusted = bench.machine.root / "keys"
    (trusted / "release.pem").unlink()
    return keys.trust(trusted, *names)


@pytest.mark.parametrize("major", [1, 2])
def test_host_that_trusts_the_second_key_installs(bench: Bench, keys: Keys, major: int) -> None:
    """In the middle of a rotation a host that has only the new key takes what both have signed."""
    trust_only(bench, keys, "4096")
    publish(bench, keys, major, "2048", "4096")
    done = bench.update()
    assert done.returncode == 0, done.stderr
    assert bench.machine.slots()["B"]["bootable"]


@pytest.mark.parametrize("major", [1, 2])
def test_host_that_revoked_the_first_key_installs_by_the_second(bench: Bench, keys: Keys, major: int) -> None:
    """A revoked key's signature beside a good one does no harm, and none of its own is believed."""
    trusted = trust_only(bench, keys, "2048", "3072")
    keys.trust(trusted / "revoked", "2048")
    publish(bench, keys, major, "2048")
    code = "signature-mismatch" if major == 1 else "metadata-signature-mismatch"
    bench.refused(3, code)
    shutil.rmtree(bench.releases)
    bench.releases.mkdir()
    publish(bench, keys, major, "2048", "3072")
    done = bench.update()
    assert done.returncode == 0, done.stderr


def test_host_whose_keys_are_all_revoked_installs_nothing(bench: Bench, keys: Keys) -> None:
    """With every key revoked nothing is believed, and the host says so."""
    trusted = trust_only(bench, keys, "2048", "3072")
    keys.trust(trusted / "revoked", "2048", "3072")
    publish(bench, keys, 2, "2048", "3072")
    bench.refused(3, "key-revoked")


@pytest.mark.parametrize("what", ["a file", "a link to nowhere", "a folder as key", "a key that is none"])
def test_revocations_that_cannot_be_read_fail_closed(tmp_path: Path, keys: Keys, what: str) -> None:
    """Whatever is in the place of `revoked`: unless it isn't there at all, it is read whole or no key is believed."""
    keys.trust(tmp_path, "2048-a")
    assert [key.name for key in read_keyring(tmp_path).keys] == ["2048-a.pem"]
    revoked = tmp_path / "revoked"
    if what == "a file":
        shutil.copy(keys.public("2048-a"), revoked)
    elif what == "a link to nowhere":
        revoked.symlink_to(tmp_path / "unmounted")
    elif what == "a folder as key":
        (revoked / "a.pem").mkdir(parents=True)
    else:
        revoked.mkdir()
        (revoked / "a.pem").write_text("nothing")
    with pytest.raises(RefusedError) as caught:
        read_keyring(tmp_path)
    assert caught.value.code is ErrorCode.KEY_UNREADABLE


def test_revocations_that_cannot_be_listed_fail_closed(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `revoked` that may not be listed isn't an empty one."""
    keys.trust(tmp_path, "2048-a")
    (tmp_path / "revoked").mkdir()
    honest = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "revoked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RefusedError) as caught:
        read_keyring(tmp_path)
    assert caught.value.code is ErrorCode.KEY_UNREADABLE
