"""locksmith's settings: what it promised is read as it is, what it took by accident is refused."""

from __future__ import annotations

from datetime import UTC, datetime, time
from pathlib import Path

import pytest

from lockd import config
from lockd.config import load
from lockd.errors import LocalError
from lockd.update_conf import parse_length, translate


def test_what_locksmith_promised_is_read() -> None:
    """Strategy, window, endpoints, group and TLS files arrive under our names."""
    found = translate(
        {
            "REBOOT_STRATEGY": "etcd-lock",
            "REBOOT_WINDOW_START": "Thu 23:00",
            "REBOOT_WINDOW_LENGTH": "1h30m",
            "LOCKSMITHD_ENDPOINT": "https://10.0.0.1:2379,https://10.0.0.2:2379",
            "LOCKSMITHD_GROUP": "web",
            "LOCKSMITHD_ETCD_CAFILE": "/etc/ca.pem",
            "GROUP": "stable",
        }
    )
    assert found == {
        "strategy": "etcd",
        "group": "web",
        "etcd": {"endpoints": ["https://10.0.0.1:2379", "https://10.0.0.2:2379"], "ca_file": "/etc/ca.pem"},
        "window": [{"start": "23:00", "duration_secs": 5400, "days": ["Thu"], "timezone": "local"}],
    }


def test_locksmiths_own_names_beat_the_plain_ones() -> None:
    """LOCKSMITHD_REBOOT_WINDOW_START is taken before REBOOT_WINDOW_START."""
    values = {
        "REBOOT_WINDOW_START": "01:00", "LOCKSMITHD_REBOOT_WINDOW_START": "02:00", "REBOOT_WINDOW_LENGTH": "1h",
    }  # fmt: skip
    assert translate(values)["window"][0]["start"] == "02:00"


@pytest.mark.parametrize(
    ("text", "secs"), [("1h", 3600), ("1h30m", 5400), ("90m", 5400), ("1.5h", 5400), ("5400s", 5400), ("23h59m", 86340)]
)
def test_lengths_are_gos_durations(text: str, secs: int) -> None:
    """A length of whole seconds is read exactly."""
    assert parse_length(text) == secs


@pytest.mark.parametrize(
    ("start", "length"),
    [
        ("14:00xyz", "1h"),  # scanned up to what fits
        ("14:00 ", "1h"),
        ("4:0", "1h"),
        ("+4:00", "1h"),
        ("24:00", "1h"),
        ("14:60", "1h"),
        ("Thursday 14:00", "1h"),
        ("Thu  14:00", "1h"),
        ("14:00 Thu", "1h"),
        ("14:00", "1"),
        ("14:00", "-1h"),
        ("14:00", "0s"),
        ("14:00", "1h "),
        ("14:00", "1d"),
        ("14:00", "0.0001s"),
        ("14:00", "24h"),  # a day or more, each day
        ("Thu 14:00", "168h"),  # a week or more, each week
        ("14:00", ""),  # one without the other
        ("", "1h"),
    ],
)
def test_what_locksmith_took_by_accident_is_refused(start: str, length: str) -> None:
    """Each slip in a window is an error that names the setting."""
    with pytest.raises(ValueError, match=r"REBOOT_WINDOW_|no time of day"):
        translate({"REBOOT_WINDOW_START": start, "REBOOT_WINDOW_LENGTH": length})


@pytest.mark.parametrize("strategy", ["best-effort", "Reboot", "etcd", "reboot "])
def test_strategies_that_are_gone_are_refused(strategy: str) -> None:
    """A strategy that locksmith doesn't have any more, or never had, is an error."""
    with pytest.raises(ValueError, match="REBOOT_STRATEGY"):
        translate({"REBOOT_STRATEGY": strategy})


def test_update_conf_is_below_our_own_file(tmp_path: Path) -> None:
    """The later update.conf wins over the earlier, lockd.toml over both; a window of ours takes the place of theirs."""
    (tmp_path / "vendor.conf").write_text("REBOOT_STRATEGY=off\nREBOOT_WINDOW_START=01:00\nREBOOT_WINDOW_LENGTH=1h\n")
    (tmp_path / "admin.conf").write_text("# mine\nREBOOT_STRATEGY=reboot\n")
    names = f'update_conf = ["{tmp_path}/vendor.conf", "{tmp_path}/admin.conf"]\n'
    (tmp_path / "lockd.toml").write_text(names)
    found = load(tmp_path / "lockd.toml", {})
    assert (found.settings.strategy, found.windows[0].start) == ("reboot", time(1))
    (tmp_path / "lockd.toml").write_text(
        f'{names}strategy = "local"\n[[window]]\nstart = "05:00"\nduration_secs = 600\n'
    )
    found = load(tmp_path / "lockd.toml", {})
    assert (found.settings.strategy, [window.start for window in found.windows]) == ("local", [time(5)])


def test_update_conf_alone_is_a_policy(tmp_path: Path) -> None:
    """`--config update.conf` reads locksmith's file as it is, in the machine's zone."""
    path = tmp_path / "update.conf"
    path.write_text('REBOOT_STRATEGY="reboot"\nREBOOT_WINDOW_START="Mon 02:00"\nREBOOT_WINDOW_LENGTH=30m\n')
    found = load(path, {})
    assert (found.settings.strategy, found.windows[0].duration_secs, found.windows[0].weekdays) == ("reboot", 1800, {0})
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert moment.astimezone(found.windows[0].zone).utcoffset() == moment.astimezone().utcoffset()


def test_bad_update_conf_stops_lockd(tmp_path: Path) -> None:
    """A slip in update.conf is told, and isn't taken for "no window"."""
    path = tmp_path / "update.conf"
    path.write_text("REBOOT_WINDOW_START=14:00xyz\nREBOOT_WINDOW_LENGTH=1h\n")
    with pytest.raises(LocalError, match="14:00xyz"):
        load(path, {})


def test_short_window_of_locksmiths_lets_a_reboot_through(tmp_path: Path) -> None:
    """It knew no time that must be left, so a window under the default's 5 minutes wants half of itself."""
    path = tmp_path / "update.conf"
    text = "REBOOT_WINDOW_START=02:00\nREBOOT_WINDOW_LENGTH="
    for length, secs in (("6m", 300.0), ("5m", 150.0), ("1s", 0.5)):
        path.write_text(text + length)
        assert load(path, {}).settings.min_remaining_secs == secs
    (tmp_path / "lockd.toml").write_text(f'update_conf = ["{path}"]\n')
    assert load(tmp_path / "lockd.toml", {}).settings.min_remaining_secs == 0.5
    (tmp_path / "lockd.toml").write_text(f'update_conf = ["{path}"]\nmin_remaining_secs = 2\n')
    with pytest.raises(LocalError, match="lets no reboot through"):
        load(tmp_path / "lockd.toml", {})


def test_named_files_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that --config or update_conf names is no "no window" when it's missing; the system's may be."""
    missing = tmp_path / "update.conf"
    with pytest.raises(LocalError, match="can't be read"):
        load(missing, {})
    (tmp_path / "lockd.toml").write_text(f'update_conf = ["{missing}"]\n')
    with pytest.raises(LocalError, match="can't be read"):
        load(tmp_path / "lockd.toml", {})
    monkeypatch.setattr(config, "UPDATE_CONF", (missing,))
    assert load(None, {}).settings.strategy == "local"
    missing.symlink_to(tmp_path / "nowhere")
    with pytest.raises(LocalError, match="can't be read"):
        load(None, {})


def test_endpoints_do_not_overrule_update_conf(tmp_path: Path) -> None:
    """`off` in locksmith's file stays, whatever endpoints are in the environment; a byte order mark hides nothing."""
    (tmp_path / "update.conf").write_text("\ufeffREBOOT_STRATEGY=off\n", encoding="utf-8")
    (tmp_path / "lockd.toml").write_text(f'update_conf = ["{tmp_path}/update.conf"]\n')
    for path in (tmp_path / "lockd.toml", tmp_path / "update.conf"):
        assert load(path, {"LOCKD_ENDPOINTS": "http://a:1"}).settings.strategy == "off"
    found = load(tmp_path / "lockd.toml", {"LOCKD_ENDPOINTS": "http://a:1", "REBOOT_STRATEGY": "reboot"})
    assert found.settings.strategy == "reboot"
