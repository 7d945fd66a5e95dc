"""A host updates itself under a real systemd, with the units as they are shipped."""

from __future__ import annotations

import json

from fixtures.image.slot import slot_digest
from tests.e2e.conftest import MakeHost, StartRow
from tests.e2e.releases import FIRST, NEXT
from tests.support.nspawn_group import TicketGroup
from tests.support.nspawn_server import ReleaseServer
from tests.support.processes import wait_for

# systemd 252's bus daemon wants more open files than the container may have
NOT_OURS = "Failed to set fd limit"


def test_daemons_start_as_shipped(nspawn_host: MakeHost, scenario: StartRow) -> None:
    """Without any setting both daemons start under their sandbox, judge the boot, and the journal has no warning."""
    row = scenario("nspawn", "start as shipped")
    host = nspawn_host()
    row.booted(host.boot().label)
    assert host.run("systemctl", "is-system-running", check=False).stdout == "running\n"
    for unit in ("updated.service", "lockd.service"):
        host.wait_active(unit)
    host.wait_status("confirmed boot", boot_confirmed=True, version_booted="1.0.0", slot_booted="A")
    slots = json.loads(host.run("update-ctl", "slots", "--json").stdout)
    assert {slot["name"] for slot in slots} == {"A", "B"}
    warnings = [line for line in host.messages("-p", "warning").splitlines() if NOT_OURS not in line]
    assert warnings == []
    before = host.bits()
    assert host.shut_down() == 0
    assert host.bits() == before
    assert host.slot_digest("USR-A") == slot_digest(FIRST)


def test_update_through_logind(
    nspawn_host: MakeHost, release_server: ReleaseServer, ticket_group: TicketGroup, scenario: StartRow
) -> None:
    """A release goes into slot B, lockd takes a ticket in etcd, logind reboots, B is confirmed, the ticket released."""
    row = scenario("nspawn", "update A to B, lockd with etcd, logind")
    release_server.publish(NEXT)
    host = nspawn_host()
    host.write("updated/conf.d/50-test.toml", release_server.settings)
    host.write("lockd/conf.d/50-test.toml", ticket_group.settings)
    row.booted(host.boot().label)
    host.wait_status("confirmed boot", boot_confirmed=True)
    host.run("update-ctl", "update", "--wait", check=False)  # the reboot may come before its last line
    code = host.wait_end()
    assert code == 133
    assert [holder["id"] for holder in ticket_group.status()["holders"]] == [host.machine_id]
    armed = host.bits()["USR-B"]
    assert (armed.tries, armed.successful) == (3, False)
    row.booted(host.boot().label)
    host.wait_status("confirmed boot", state="idle", version_booted="1.1.0", slot_booted="B", boot_confirmed=True)
    wait_for(lambda: not ticket_group.status()["holders"], "the ticket given back")
    bits = host.bits()
    assert (bits["USR-B"].successful, bits["USR-B"].tries) == (True, 0)
    assert bits["USR-B"].priority > bits["USR-A"].priority > 0
    assert bits["USR-A"].successful
    assert host.shut_down() == 0
    assert host.boots == ["USR-A", "USR-B"]
    assert host.slot_digest("USR-A") == slot_digest(FIRST)
    assert host.slot_digest("USR-B") == slot_digest(NEXT)
