"""The health gate under a real systemd, at default settings: what a bad release costs, and what is told of it."""

from __future__ import annotations

from fixtures.image.slot import SystemRelease
from tests.e2e.conftest import MakeHost, StartRow
from tests.support.nspawn import NspawnHost
from tests.support.nspawn_server import ReleaseServer
from updated.agent import message_ids

CHECK = """
[Unit]
Description=Looks whether this system is well
Before=boot-complete.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo looking; echo "the disk is on fire" >&2; exit 3'
[Install]
RequiredBy=boot-complete.target
"""
FIRE = SystemRelease(
    "1.1.0", files={"usr/lib/systemd/system/check-fire.service": CHECK}, enable=("check-fire.service",)
)
SAID = "boot-complete.target is inactive, for it needs check-fire.service, which is failed (exit-code 3)"
# a release in which the bus never comes up, and whose own check says so
NO_BUS = SystemRelease(
    "1.1.0",
    files={"usr/lib/systemd/system/dbus.service.d/broken.conf": "[Service]\nExecStart=\nExecStart=/bin/false\n"},
)


def updated_host(nspawn_host: MakeHost, server: ReleaseServer, release: SystemRelease, more: str = "") -> NspawnHost:
    """Return a machine that has taken a release and is about to reboot into it."""
    server.publish(release)
    host = nspawn_host()
    host.write("updated/conf.d/50-test.toml", server.settings)
    host.write("updated/conf.d/60-test.toml", more)
    host.boot()
    host.run("update-ctl", "update", "--wait", timeout=120, check=False)  # the reboot may come before its last line
    return host


def milestones(host: NspawnHost, message_id: str) -> list[dict[str, str]]:
    return host.journal("-u", "updated.service", f"MESSAGE_ID={message_id}")


def test_failed_check_costs_one_boot(nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow) -> None:
    """A check that fails ends the trial after one boot, whatever tries are left; the host says which unit and why."""
    row = scenario("nspawn", "failed check: back to A after one trial boot")
    host = updated_host(nspawn_host, release_server, FIRE)
    row.booted("USR-A")
    row.booted(host.wait_reboot(wait=False).label)
    row.booted(host.wait_reboot().label)
    assert host.boots == ["USR-A", "USR-B", "USR-A"]
    targets = host.messages("UNIT=kexec.target", "UNIT=reboot.target", boot=-1)
    assert ("reboot.target" in targets, "kexec.target" in targets) == (True, False), targets
    status = host.wait_status("old release confirmed", state="idle", boot_confirmed=True, version_booted="1.0.0")
    assert status["rolled_back"]["version"] == "1.1.0"
    assert status["failed_versions"] == ["1.1.0"]
    assert SAID in status["last_error"]["message"]
    assert "it said: looking | the disk is on fire" in status["last_error"]["message"]
    assert not host.bits()["USR-B"].tries
    (bad,) = milestones(host, message_ids.BOOT_UNHEALTHY)
    assert (bad["PRIORITY"], bad["UPDATED_VERSION"], bad["UPDATED_FALLS_BACK"]) == ("3", "1.1.0", "True")
    assert SAID in bad["UPDATED_REASON"]
    (back,) = milestones(host, message_ids.ROLLED_BACK)
    assert (back["PRIORITY"], back["UPDATED_VERSION"], back["UPDATED_RUNNING"]) == ("3", "1.1.0", "1.0.0")
    (armed,) = milestones(host, message_ids.UPDATE_ARMED)
    assert (armed["UPDATED_VERSION"], armed["UPDATED_RUNNING"]) == ("1.1.0", "1.0.0")
    warned = {entry["MESSAGE_ID"] for entry in host.journal("-u", "updated", "-p", "warning") if "MESSAGE_ID" in entry}
    assert {message_ids.BOOT_UNHEALTHY, message_ids.ROLLED_BACK} <= warned
    assert message_ids.UPDATE_ARMED not in warned


def test_more_trial_boots_for_checks_that_may_come_out_differently(
    nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow
) -> None:
    """With health.trial_boots = 2 a bad verdict costs a second trial boot, and not the boot loader's third."""
    row = scenario("nspawn", "failed check, trial_boots = 2: back to A after two")
    host = updated_host(nspawn_host, release_server, FIRE, "[health]\ntrial_boots = 2\n")
    row.booted("USR-A")
    for _ in range(2):
        row.booted(host.wait_reboot(wait=False).label)
    row.booted(host.wait_reboot().label)
    assert host.boots == ["USR-A", "USR-B", "USR-B", "USR-A"]
    host.wait_status("old release confirmed", state="idle", boot_confirmed=True, version_booted="1.0.0")


def test_release_without_a_bus_is_left(
    nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow
) -> None:
    """Neither D-Bus nor logind is needed to judge a release in which both are broken, and to leave it."""
    row = scenario("nspawn", "release whose D-Bus is broken: back to A")
    health = '[health]\nunits = ["boot-complete.target", "dbus.service"]\n'
    host = updated_host(nspawn_host, release_server, NO_BUS, health)
    row.booted("USR-A")
    row.booted(host.wait_reboot(wait=False).label)
    row.booted(host.wait_reboot().label)
    assert host.boots == ["USR-A", "USR-B", "USR-A"]
    status = host.wait_status("old release confirmed", state="idle", boot_confirmed=True, version_booted="1.0.0")
    assert "unit dbus.service is failed" in status["last_error"]["message"]


def test_bad_boot_without_a_slot_to_go_back_to_stays_up(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """Where there is no other release the host isn't rebooted, whatever the checks say, and its slot stays bootable."""
    row = scenario("nspawn", "failed check, nothing to fall back to: stays up")
    host = nspawn_host(FIRE)
    row.booted(host.boot().label)
    status = host.wait_status("verdict", state_detail="unhealthy")
    assert SAID in status["last_error"]["message"]
    assert host.bits()["USR-A"].successful
    assert host.boots == ["USR-A"]
    assert host.shut_down() == 0
