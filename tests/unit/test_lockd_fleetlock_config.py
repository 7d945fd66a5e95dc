"""The settings of lockd-fleetlock and of strategy fleetlock: what would let strangers in, or can't be, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockd.config import load
from lockd.errors import ErrorCode, LocalError
from lockd.fleetlock_config import load_server, split_address
from lockd.fleetlock_settings import FleetLockSettings, fleetlock_id, read_tokens

ETCD = '[etcd]\nendpoints = ["http://h:1"]\n'
TLS = 'cert_file = "/c"\nkey_file = "/k"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        'token_file = "/t"\n',
        f'token_file = "/t"\nlisten = "0.0.0.0:1"\n{TLS}',
        f'client_ca_file = "/a"\nlisten = "[::]:1"\n{TLS}',
        'insecure = true\nlisten = "0.0.0.0:1"\n',
        'insecure = true\ngroups = ["web", "db-1.x"]\n',
    ],
)
def test_good_settings_are_read(tmp_path: Path, text: str) -> None:
    """Tokens on loopback, tokens or certificates over TLS, and what is called insecure, are settings."""
    loaded = load_server(write(tmp_path, text + ETCD), {})
    assert loaded.settings.etcd.endpoints == ("http://h:1",)
    assert loaded.settings.etcd.lease_ttl_secs == 900
    assert loaded.unknown == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ETCD, "nobody is asked who he is"),
        (f'token_file = "/t"\nlisten = "0.0.0.0:1"\n{ETCD}', "in the clear"),
        (f'token_file = "/t"\nlisten = "locks.example.org:1"\n{ETCD}', "in the clear"),
        (f'client_ca_file = "/a"\n{ETCD}', "without TLS"),
        (f'token_file = "/t"\ncert_file = "/c"\n{ETCD}', "go together"),
        (f'token_file = "/t"\ngroups = []\n{ETCD}', "groups"),
        (f'token_file = "/t"\ngroups = ["a_b"]\n{ETCD}', "a_b"),
        (f'token_file = "/t"\nlisten = "8080"\n{ETCD}', "8080"),
        (f'insecure = true\nlisten = "127.0.0.1:99999"\n{ETCD}', "127.0.0.1:99999"),
        ('token_file = "/t"\n', "etcd.endpoints"),
        (f'token_file = "/t"\ninsecure = 1\n{ETCD}', "insecure"),
        ("this is no toml", "not TOML"),
    ],
)
def test_bad_settings_are_refused_with_their_words(tmp_path: Path, text: str, words: str) -> None:
    """A server that anybody could ask, or that isn't set up, doesn't start, and says why."""
    with pytest.raises(LocalError) as caught:
        load_server(write(tmp_path, text), {})
    assert caught.value.code is ErrorCode.CONFIG
    assert words in caught.value.message


@pytest.mark.parametrize(("text", "expected"), [("1.2.3.4:5", ("1.2.3.4", 5)), ("[::1]:0", ("::1", 0))])
def test_address_is_split(text: str, expected: tuple[str, int]) -> None:
    """An address of either family comes apart at its last colon."""
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["", ":1", "h:", "h:x", "h:65536", "h:-1"])
def test_no_address_is_refused(text: str) -> None:
    """What isn't an address is said to be none."""
    with pytest.raises(ValueError, match="ADDR:PORT"):
        split_address(text)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "needs fleetlock.base_url"),
        ('base_url = "https://h/x"', "must end with a slash"),
        ('base_url = "https://h:99999/"', "'https://h:99999/' is no URL: Port out of range"),
        ('base_url = "https://h/"\nid = "a/b"', "fleetlock.id"),
        ('base_url = "https://h/"\ncert_file = "/c"', "go together"),
        ('base_url = "https://h/"\nrequest_timeout_secs = 0', "above 0"),
    ],
)
def test_bad_policy_is_refused_with_its_words(tmp_path: Path, table: str, words: str) -> None:
    """A table [fleetlock] that can't be meant stops lockd with the reason."""
    with pytest.raises(LocalError) as caught:
        load(write(tmp_path, f'strategy = "fleetlock"\n[fleetlock]\n{table}\n'), {})
    assert words in caught.value.message


def test_group_must_be_one_of_the_protocols(tmp_path: Path) -> None:
    """A group's name that etcd would take but FleetLock wouldn't is refused at home, not by the lock manager."""
    text = 'strategy = "fleetlock"\ngroup = "a_b"\n[fleetlock]\nbase_url = "https://h/"\n'
    with pytest.raises(LocalError, match="a_b"):
        load(write(tmp_path, text), {})


def test_id_is_what_is_set_or_zincatis() -> None:
    """An id in the policy counts; without one the machine id must be one that Zincati's id can be made of."""
    assert fleetlock_id(FleetLockSettings(id="me"), "anything") == "me"
    assert fleetlock_id(FleetLockSettings(), "0" * 32) != "0" * 32
    with pytest.raises(LocalError) as caught:
        fleetlock_id(FleetLockSettings(), "web-7")
    assert caught.value.code is ErrorCode.STATE


def test_tokens_are_lines(tmp_path: Path) -> None:
    """Each line of a token file is one, so that the next can be let in before the last one goes."""
    path = tmp_path / "tokens"
    path.write_text("one\n\n two \n")
    assert read_tokens(path) == ("one", "two")
    assert read_tokens(None) == ()


@pytest.mark.parametrize("data", [b"", b"\n \n", b"a\x00b", b"\xff", b"x" * 5000])
def test_file_without_a_token_lets_nobody_in(tmp_path: Path, data: bytes) -> None:
    """An empty or damaged token file is an error, not a door without a lock."""
    path = tmp_path / "tokens"
    path.write_bytes(data)
    with pytest.raises(LocalError) as caught:
        read_tokens(path)
    assert caught.value.code is ErrorCode.STATE


def test_missing_token_file_is_told(tmp_path: Path) -> None:
    """A token file that isn't there is an error too."""
    with pytest.raises(LocalError):
        read_tokens(tmp_path / "none")
