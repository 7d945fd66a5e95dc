"""Files that steer a daemon count whole and only by root's hand: keys, revoked keys, settings, hooks, passwords."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lockd.hooks import run_program
from tests.support.processes import run_tool
from updated.common.settings import SettingsError, load_layers, read_key_values
from updated.errors import ErrorCode, RefusedError
from updated.install.keys import read_keyring

NOBODY = 65534
SPOILT = {
    "by everybody": lambda path: path.chmod(path.stat().st_mode | 0o002),
    "by its group": lambda path: path.chmod(path.stat().st_mode | 0o020),
    "belongs to user": lambda path: os.chown(path, NOBODY, NOBODY),
}


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def keys() -> list[bytes]:
    """Three public keys, PEM."""
    return [pem(rsa.generate_private_key(65537, 2048)) for _ in range(3)]


@pytest.fixture
def folder(tmp_path: Path, keys: list[bytes]) -> Path:
    """A directory with the first two keys, each in a file, and an empty `revoked`."""
    for name, key in zip(("a.pem", "b.pem"), keys, strict=False):
        (tmp_path / name).write_bytes(key)
    (tmp_path / "revoked").mkdir()
    return tmp_path


def names(folder: Path) -> list[str]:
    return [key.name for key in read_keyring(folder).keys]


def refusal(folder: Path) -> ErrorCode:
    with pytest.raises(RefusedError) as caught:
        read_keyring(folder)
    return caught.value.code


def test_every_key_of_a_revoked_bundle_is_revoked(folder: Path, keys: list[bytes]) -> None:
    """Of a PEM file with several keys in revoked/ each is revoked, comments between them or not."""
    (folder / "revoked/lost.pem").write_bytes(keys[2] + b"\n# and the other\n" + keys[1])
    assert names(folder) == ["a.pem"]
    (folder / "revoked/lost.pem").write_bytes(keys[0] + keys[1])
    assert refusal(folder) is ErrorCode.KEY_REVOKED


def test_every_key_of_a_trusted_bundle_is_trusted(folder: Path, keys: list[bytes]) -> None:
    """Of a PEM file with several keys each may sign, and each is judged by itself."""
    (folder / "b.pem").unlink()
    (folder / "a.pem").write_bytes(b"".join(keys))
    assert names(folder) == ["a.pem", "a.pem#2", "a.pem#3"]
    (folder / "revoked/b.pem").write_bytes(keys[1])
    assert names(folder) == ["a.pem", "a.pem#3"]
    (folder / "a.pem").write_bytes(keys[0] + pem(rsa.generate_private_key(65537, 1024)))
    assert refusal(folder) is ErrorCode.KEY_WEAK


@pytest.mark.parametrize("where", ["", "revoked/"])
@pytest.mark.parametrize(
    "name", ["b.pub", "lost.PEM", "README", ".b.pem.swp", "key.pem~", "b.pem.bak", "lost.der", ".pem.txt", "Revoked"]
)
def test_file_of_another_name_beside_keys_is_an_error(folder: Path, keys: list[bytes], where: str, name: str) -> None:
    """What isn't called NAME.pem could be the key that was to be revoked: nothing is believed until it is renamed."""
    if name == "Revoked":
        (folder / where / name).mkdir()
    else:
        (folder / where / name).write_bytes(keys[1])
    assert refusal(folder) is ErrorCode.KEY_UNREADABLE


@pytest.mark.parametrize("where", ["c.pem", "revoked/c.pem"])
@pytest.mark.parametrize("what", ["empty", "text", "cut", "cut second", "certificate", "joined", "ec", "binary"])
def test_file_that_is_no_key_is_an_error(folder: Path, keys: list[bytes], where: str, what: str) -> None:
    """A file in which anything isn't a whole RSA key makes all of them unbelieved, wherever in it that is."""
    content = {
        "empty": b"",
        "text": b"see the wiki\n",
        "cut": keys[1][:-20],
        "cut second": keys[1] + keys[2][:-20],
        "certificate": keys[1].replace(b"PUBLIC KEY", b"CERTIFICATE"),
        "joined": keys[1].rstrip() + keys[2][5:],
        "ec": keys[1] + pem(ec.generate_private_key(ec.SECP256R1())),
        "binary": b"\0\xff" * 100,
    }[what]
    (folder / where).write_bytes(content)
    assert refusal(folder) in (ErrorCode.KEY_UNREADABLE, ErrorCode.KEY_WEAK)


@pytest.mark.parametrize("words", SPOILT)
@pytest.mark.parametrize("what", ["b.pem", "revoked", "."])
def test_key_that_others_may_write_is_refused_with_the_reason(folder: Path, what: str, words: str) -> None:
    """Neither a key nor a directory of keys counts if others than root, or the daemon's user, may write it."""
    SPOILT[words](folder / what)
    with pytest.raises(RefusedError, match=words) as caught:
        read_keyring(folder)
    assert caught.value.code is ErrorCode.KEY_UNREADABLE


@pytest.mark.parametrize("words", SPOILT)
@pytest.mark.parametrize("what", ["updated.toml", "conf.d/10-x.toml", "conf.d"])
def test_settings_that_others_may_write_are_refused_with_the_reason(tmp_path: Path, what: str, words: str) -> None:
    """A file of settings, a drop-in or their directory that others may write stops the command, and says why."""
    (tmp_path / "conf.d").mkdir()
    for name in ("updated.toml", "conf.d/10-x.toml"):
        (tmp_path / name).write_text('log_level = "info"\n')
    SPOILT[words](tmp_path / what)
    with pytest.raises(SettingsError, match=words):
        load_layers("updated", tmp_path / "updated.toml")
    done = run_tool("update-ctl", "config", "check", env={"UPDATED_CONFIG": str(tmp_path / "updated.toml")})
    assert (done.returncode == 1, words in done.stderr) == (True, True), done.stderr


@pytest.mark.parametrize("words", SPOILT)
def test_update_conf_that_others_may_write_is_refused(tmp_path: Path, words: str) -> None:
    """update.conf is a file of settings, too."""
    path = tmp_path / "update.conf"
    path.write_text("SERVER=https://evil.example/\n")
    SPOILT[words](path)
    with pytest.raises(SettingsError, match=words):
        read_key_values(path, owned=True)


def test_masking_link_and_foreign_reader_are_fine(tmp_path: Path) -> None:
    """A link to /dev/null still masks, and a file that everybody may read is read."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "updated.toml").write_text('log_level = "info"\n')
    (tmp_path / "updated.toml").chmod(0o644)
    (tmp_path / "conf.d/10-x.toml").symlink_to("/dev/null")
    assert load_layers("updated", tmp_path / "updated.toml").values == {"log_level": "info"}


@pytest.mark.anyio
@pytest.mark.parametrize("words", SPOILT)
@pytest.mark.parametrize("what", ["file", "folder"])
async def test_hook_that_others_may_write_is_not_run(tmp_path: Path, what: str, words: str) -> None:
    """A program that others may replace counts as one that failed, and isn't started."""
    path, ran = tmp_path / "hooks/10-x", tmp_path / "ran"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\ntouch {ran}\n")
    path.chmod(0o755)
    SPOILT[words](path if what == "file" else path.parent)
    outcome = await run_program(path, timeout_secs=10, env={})
    assert words in outcome.problem
    assert not ran.exists()


def test_config_check_looks_at_the_keys(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`update-ctl config check` tells of a key that can't be understood before the first update does."""
    config = tmp_path_factory.mktemp("etc") / "updated.toml"
    config.write_text(f'[trust]\nkeys_dir = "{folder}"\n')
    environ = {"UPDATED_CONFIG": str(config)}
    assert run_tool("update-ctl", "config", "check", env=environ).returncode == 0
    (folder / "revoked/lost.pub").write_bytes((folder / "b.pem").read_bytes())
    done = run_tool("update-ctl", "config", "check", env=environ)
    assert (done.returncode, "lost.pub" in done.stderr) == (3, True), done.stderr
