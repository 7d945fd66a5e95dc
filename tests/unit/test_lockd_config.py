"""The policy file: what is believed, and what is refused loudly."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import TZPATH

import pytest

from lockd import config
from lockd.config import Loaded, load, read_boot_id, read_machine_id, read_password
from lockd.errors import ErrorCode, LocalError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lockd.toml"
    path.write_text(text)
    return path


def loaded(tmp_path: Path, text: str, **environ: str) -> Loaded:
    return load(write(tmp_path, text), environ)


def test_defaults_are_one_machine_with_a_file(tmp_path: Path) -> None:
    """With nothing said the strategy is local and a reboot may come at any time."""
    found = loaded(tmp_path, "")
    assert (found.settings.strategy, found.windows) == ("local", ())


def test_whole_policy_is_read(tmp_path: Path) -> None:
    """Every part of the file arrives."""
    found = loaded(
        tmp_path,
        """
        strategy = "etcd"
        group = "web"
        [etcd]
        endpoints = ["https://10.0.0.1:2379"]
        ca_file = "/etc/lockd/ca.pem"
        [[window]]
        days = ["Sat", "Sunday"]
        start = "03:00"
        duration_secs = 7200
        timezone = "Europe/Berlin"
        """,
    )
    assert found.settings.etcd.ca_file == Path("/etc/lockd/ca.pem")
    assert found.windows[0].weekdays == {5, 6}
    assert str(found.windows[0].zone) == "Europe/Berlin"
    assert found.unknown == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('strategy = "best-effort"', "best-effort"),
        ('strategy = "fleetlock"', "needs fleetlock.base_url"),
        ('strategy = "etcd"', "needs etcd.endpoints"),
        ('strategy = "etcd"\netcd.endpoints = ["10.0.0.1:2379"]', "10.0.0.1:2379"),
        ('strategy = "etcd"\netcd.endpoints = ["http://h:1/v3"]', "no path"),
        ('strategy = "etcd"\netcd.endpoints = ["http://h:1"]\netcd.prefix = "lockd"', "etcd.prefix"),
        ('strategy = "etcd"\netcd.endpoints = ["http://h:1"]\netcd.cert_file = "/x"', "go together"),
        ('strategy = "etcd"\netcd.endpoints = ["http://h:1"]\netcd.lease_ttl_secs = 2', "lease_ttl_secs"),
        ("reboot_retry_secs = 0", "reboot_retry_secs must be 60 or more"),
        ('group = "prod/db"', "group"),
        ('group = ""', "group"),
        ('machine_id = "a/b"', "machine_id"),
        ('[[window]]\nstart = "14:00xyz"\nduration_secs = 60', "14:00xyz"),
        ('[[window]]\nstart = "14:00"\nduration_secs = 0', "no duration"),
        ('[[window]]\nstart = "14:00"\nduration_secs = 60\ndays = ["Tuesady"]', "Tuesady"),
        ('[[window]]\nstart = "14:00"\nduration_secs = 60\ntimezone = "Mars/Base"', "Mars/Base"),
        ('[[window]]\nstart = "14:00"\nduration_secs = 60\ntimezone = "../../etc/passwd"', "window"),
        ('[[window]]\nstart = "14:00"', "lacks duration_secs"),
        ('[[window]]\nstart = "14:00"\nduration_secs = 60\nlength = 3', "length"),
        ('[[windows]]\nstart = "14:00"', "unknown setting windows"),
        ("window = 3", "must be a list"),
        ("min_remaining_secs = -1", "negative"),
        ('[[window]]\nstart = "14:00"\nduration_secs = 300', "a window of 300 s"),
        ('[[window]]\ncalendar = "Sat 14:00"\nduration_secs = 60', "min_remaining_secs is 300"),
        (f"spread_secs = 1{'0' * 400}", "spread_secs"),
        (f"min_remaining_secs = 1{'0' * 5000}", "is not TOML"),
        ("expected_down_secs = 1e20", "expected_down_secs"),
        ("sessions.grace_secs = 1e12", "sessions.grace_secs"),
        ("etcd.lease_ttl_secs = 315360001", "ten years"),
        (f'[[window]]\nstart = "14:00"\nduration_secs = 1{"0" * 400}', "duration_secs"),
        ('alerts.url = "http://h:99999"', "alerts.url: 'http://h:99999' is no URL"),
        ("this is no toml", "is not TOML"),
    ],
)
def test_bad_policy_is_refused_with_its_words(tmp_path: Path, text: str, words: str) -> None:
    """A policy that can't be meant stops lockd with the reason, and so nothing reboots by mistake."""
    with pytest.raises(LocalError) as caught:
        loaded(tmp_path, text)
    assert caught.value.code is ErrorCode.CONFIG
    assert words in caught.value.message


def test_unknown_keys_elsewhere_are_named(tmp_path: Path) -> None:
    """A key that nothing knows is reported, and the rest still works."""
    assert loaded(tmp_path, "nonsense = 1").unknown == ("nonsense",)


def test_environment_beats_the_file(tmp_path: Path) -> None:
    """What the environment says wins, in containers and tests."""
    found = loaded(
        tmp_path,
        'group = "file"',
        LOCKD_GROUP="env",
        LOCKD_MACHINE_ID="m9",
        LOCKD_BUS_ADDRESS="unix:path=/x",
        LOCKD_ENDPOINTS="http://a:1, http://b:2",
    ).settings
    assert (found.group, found.machine_id, found.bus_address) == ("env", "m9", "unix:path=/x")
    assert (found.strategy, found.etcd.endpoints) == ("etcd", ("http://a:1", "http://b:2"))


def test_endpoints_do_not_overrule_a_strategy_in_the_file(tmp_path: Path) -> None:
    """A file that says off stays off, whatever endpoints are in the environment."""
    assert loaded(tmp_path, 'strategy = "off"', LOCKD_ENDPOINTS="http://a:1").settings.strategy == "off"


@pytest.mark.parametrize("content", [None, "", "not an id!", "x" * 300])
def test_ids_that_are_none_are_refused(tmp_path: Path, content: str | None) -> None:
    """Without a readable machine id and boot id lockd doesn't start: it couldn't tell its own slot."""
    path = tmp_path / "id"
    if content is not None:
        path.write_text(content)
    settings = loaded(tmp_path, f'machine_id_file = "{path}"\nboot_id_file = "{path}"').settings
    for read in (read_machine_id, read_boot_id):
        with pytest.raises(LocalError) as caught:
            read(settings)
        assert caught.value.code is ErrorCode.STATE


def test_password_comes_from_its_file(tmp_path: Path) -> None:
    """The password is the file's content without its last line end; a missing file is an error."""
    (tmp_path / "password").write_text("secret word\n")
    found = loaded(tmp_path, f'etcd.password_file = "{tmp_path}/password"').settings.etcd
    assert read_password(found) == "secret word"
    (tmp_path / "password").unlink()
    with pytest.raises(LocalError):
        read_password(found)


def test_longest_duration_is_ten_years(tmp_path: Path) -> None:
    """The bound itself is a duration that works."""
    assert loaded(tmp_path, "spread_secs = 315360000").settings.spread_secs == 315360000.0


@pytest.mark.parametrize(
    ("zone", "hours"),
    [("Asia/Tokyo", 9), (":Asia/Tokyo", 9), (":/usr/share/zoneinfo/Asia/Tokyo", 9), (":/etc/localtime", 5), ("", 5)],
)
def test_machines_own_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, hours: int) -> None:
    """TZ names a zone, with or without a colon, or a file; /etc/localtime there is what it is without TZ."""
    localtime = tmp_path / "localtime"
    localtime.write_bytes(
        next(Path(one, "Asia/Karachi") for one in TZPATH if Path(one, "Asia/Karachi").exists()).read_bytes()
    )
    monkeypatch.setattr(config, "LOCALTIME", localtime)
    monkeypatch.setenv("TZ", zone.replace("/etc/localtime", str(localtime)))
    window = '[[window]]\nstart = "14:00"\nduration_secs = 3600\ntimezone = "local"'
    found = loaded(tmp_path, window).windows[0].zone
    assert datetime(2026, 1, 1, tzinfo=found).utcoffset() == timedelta(hours=hours)
