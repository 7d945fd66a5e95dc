"""A host updates itself under a real systemd, with the units as they are shipped."""

from __future__ import annotations

from fixtures.image.slot import SystemRelease, slot_digest
from tests.e2e.conftest import MakeHost, StartRow
from tests.support.nspawn_able import needs_machine
from tests.support.nspawn_server import ReleaseServer

pytestmark = needs_machine()

NEXT = SystemRelease("1.1.0")


def test_update_through_logind(nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow) -> None:
    """A host takes a release into slot B, lockd has logind reboot it, and B is confirmed; A stays as it was."""
    row = scenario("nspawn", "update A to B, rebooted by lockd")
    release_server.publish(NEXT)
    host = nspawn_host()
    host.write("updated/conf.d/50-test.toml", release_server.settings)
    row.booted(host.boot().label)
    old = host.slot_digest("USR-A")
    host.run("update-ctl", "update", "--wait", timeout=120)
    row.booted(host.wait_reboot().label)
    host.wait_status("confirmed", state="idle", version_booted="1.1.0")
    bits = host.bits()
    assert host.boots == ["USR-A", "USR-B"]
    assert (bits["USR-B"].successful, bits["USR-B"].tries) == (True, 0)
    assert bits["USR-B"].priority > bits["USR-A"].priority > 0
    assert bits["USR-A"].successful
    assert host.slot_digest("USR-A") == old
    assert host.slot_digest("USR-B") == slot_digest(NEXT)
    assert host.shut_down() == 0
