"""Units, policies and what `make install` puts on a host, judged by the tools that will read them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from updated.common import cli

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "systemd").glob("*.service"))
INSTALLED = {
    "usr/lib/systemd/system/updated.service",
    "usr/lib/systemd/system/lockd.service",
    "usr/lib/systemd/system/lockd-fleetlock.service",
    "usr/share/dbus-1/system.d/org.updated.Agent1.conf",
    "usr/share/dbus-1/system.d/org.lockd.Lockd1.conf",
    "usr/share/dbus-1/system-services/org.lockd.Lockd1.service",
    "usr/share/dbus-1/system-services/com.coreos.update1.service",
    "usr/share/dbus-1/system-services/org.updated.Agent1.service",
    "usr/share/polkit-1/rules.d/50-lockd.rules",
    "usr/lib/sysusers.d/lockd.conf",
    "usr/lib/sysusers.d/lockd-fleetlock.conf",
    "usr/lib/tmpfiles.d/updated.conf",
    "usr/lib/tmpfiles.d/lockd-fleetlock.conf",
    "usr/lib/updated/updated.toml",
    "usr/lib/lockd/lockd.toml",
    "usr/lib/lockd-fleetlock/lockd-fleetlock.toml",
    "usr/share/man/man1/update-ctl.1",
    "usr/share/man/man1/update-payload.1",
    "usr/share/man/man1/update-server.1",
    "usr/share/man/man1/lockctl.1",
    "usr/share/man/man8/updated.8",
    "usr/share/man/man8/lockd.8",
    "usr/share/man/man8/lockd-fleetlock.8",
}


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Return a unit's settings, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def run(*argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end."""
    return subprocess.run(
        list(map(str, argv)), capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **env}
    )


def test_units_are_clean_to_systemd(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say about any unit, once the programs they start exist."""
    assert [unit.name for unit in UNITS] == ["lockd-fleetlock.service", "lockd.service", "updated.service"]
    for unit in UNITS:
        text = re.sub(r"^(Exec[A-Z][a-z]+)=\S+", r"\1=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", *(tmp_path / unit.name for unit in UNITS))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_verify_would_notice(tmp_path: Path) -> None:
    """The same check complains about a setting that systemd doesn't know, so its silence means something."""
    unit = tmp_path / "updated.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nProtectSytem=strict\n")
    assert "ProtectSytem" in run("systemd-analyze", "verify", "--man=no", unit).stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_supervise_the_work(unit: Path) -> None:
    """The service manager learns of readiness and life from the daemon itself, and starts it again when it fails."""
    settings = settings_of(unit)
    assert settings["ExecStart"] == [f"/usr/bin/{unit.stem}"]
    assert (settings["Type"], settings["NotifyAccess"]) == (["notify"], ["main"])
    assert (settings["WatchdogSec"], settings["Restart"]) == (["120"], ["on-failure"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_settings_that_are_wrong_are_not_tried_every_ten_seconds(unit: Path) -> None:
    """The exit code that means wrong settings is the one that the unit doesn't start again after."""
    assert settings_of(unit)["RestartPreventExitStatus"] == [str(int(cli.Exit.CONFIG))]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("org.lockd.Lockd1", "lockd"), ("org.updated.Agent1", "updated"), ("com.coreos.update1", "updated")],
)
def test_bus_starts_only_a_service_that_is_enabled(name: str, unit: str) -> None:
    """An activation file names an alias that `systemctl enable` makes, so that a disabled daemon stays down."""
    activation = settings_of(ROOT / f"systemd/dbus/{name}.service")
    assert activation["Name"] == [name]
    assert activation["SystemdService"][0] in settings_of(ROOT / f"systemd/{unit}.service")["Alias"]


def test_agent_may_write_to_every_kind_of_disk() -> None:
    """The agent's unit lets it open every block device that slots may be on, and no other device."""
    settings = settings_of(ROOT / "systemd/updated.service")
    kinds = "sd virtblk nvme mmc blkext xvd dasd md mdp device-mapper loop pmem"
    assert settings["DevicePolicy"] == ["closed"]
    assert settings["DeviceAllow"] == [f"block-{kind} rw" for kind in kinds.split()]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_leave_the_facts_readable(unit: Path) -> None:
    """No unit hides /proc/cmdline and /proc/sys, from which slot and boot id are read."""
    assert settings_of(unit).get("ProcSubset", ["all"]) == ["all"]


@pytest.mark.parametrize("policy", sorted((ROOT / "systemd" / "dbus").glob("*.conf")), ids=lambda path: path.name)
def test_dbus_policies_are_well_formed(policy: Path) -> None:
    """Each D-Bus policy is XML with policies in it, and by default it only allows calls by interface."""
    root = ET.parse(policy).getroot()
    assert root.tag == "busconfig"
    rules = root.findall("policy[@context='default']/*")
    assert rules
    assert all(rule.tag == "allow" and rule.get("send_interface") for rule in rules)


def test_sysusers_and_tmpfiles_work_in_a_fresh_tree(tmp_path: Path) -> None:
    """systemd-sysusers and systemd-tmpfiles make the user and the folders from our files in an empty root."""
    if os.getuid() != 0:
        pytest.skip("NOT TESTED HERE: systemd-sysusers and systemd-tmpfiles; they need root")
    (tmp_path / "etc").mkdir()
    for name in ("lockd", "lockd-fleetlock"):
        users = run("systemd-sysusers", f"--root={tmp_path}", ROOT / "systemd" / "sysusers.d" / f"{name}.conf")
        assert users.returncode == 0, users.stderr
        assert re.search(rf"^{name}:", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE)
    for name, folder in (("updated", "lockd"), ("lockd-fleetlock", "lockd-fleetlock")):
        folders = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", ROOT / f"systemd/tmpfiles.d/{name}.conf")
        assert folders.returncode == 0, folders.stderr
        assert (tmp_path / f"etc/{folder}/conf.d").stat().st_mode & 0o777 == 0o750


def test_install_lays_out_a_host(tmp_path: Path) -> None:
    """`make install-files DESTDIR=` puts every file where systemd, D-Bus, polkit, man and the daemons look for it."""
    done = run("make", "-s", "-C", ROOT, "install-files", f"DESTDIR={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == INSTALLED


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_resolver_at_a_link_local_address_may_be_asked(unit: Path) -> None:
    """No unit shuts out link-local addresses, for in some clouds (and behind IPv6 routers) the resolver has one."""
    assert settings_of(unit)["IPAddressDeny"] == ["multicast"]
