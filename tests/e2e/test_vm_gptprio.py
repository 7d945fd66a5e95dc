"""Virtual machines whose firmware this harness plays, by the rule of the GPT attribute bits.

Kernel, NVMe disk, systemd and both daemons as shipped are real, and what a machine did is read from its disk.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fixtures.image.machine import SystemSlot, machine_slot
from fixtures.image.slot import SystemRelease
from tests.e2e.conftest import StartRow
from tests.support.campaign import scale
from tests.support.verdicts import Scenario
from tests.support.vm.able import needs_virtual_machine
from tests.support.vm.disk import digest_of
from tests.support.vm.machine import VirtualMachine, make_machine
from tests.support.vm.outage import Outages
from tests.support.vm.site import Site

TIER = "vm gptprio"
STATE, TICKETS = "lib/updated/state.json", "lib/lockd/tickets.json"
NO_TICKET = '"tickets": {}'
SEED = 20261201
pytestmark = [needs_virtual_machine(), pytest.mark.timeout(3600)]


@pytest.fixture
def first() -> SystemSlot:
    """The release that machines come with."""
    return machine_slot(SystemRelease("1.0.0"))


def test_update_and_power_cuts(scenario: StartRow, site: Site, first: SystemSlot, tmp_path: Path) -> None:
    """A machine updates itself from A to B and, with its power cut at any moment of that, boots a whole slot again.

    A cut loses some of what was not flushed, and tears some. Its machine reaches the server from the slot that the bits
    name, and that slot holds one of the releases to the last byte; an update that was cut in mid-write is finished.
    """
    second = machine_slot(SystemRelease("2.0.0"))
    site.offer(second, "2.0.0", old=first)
    vm = make_machine(tmp_path / "vm", first, port=site.port)
    outages = Outages(vm, (digest_of(first.image), digest_of(second.image)))
    _update(scenario(TIER, "update A to B, confirm"), vm, outages, second)
    assert vm.disk.digest("USR-A") == digest_of(first.image), "the old release is whole, to go back to"

    liar = outages.after(outages.end_of(0), tmp_path / "liar", flushes=False)
    assert liar.disk.digest("USR-B") != digest_of(second.image), "without the flushes the cuts below would strike"
    liar.discard()

    row = scenario(TIER, "power cut in mid-write, finished")
    cut = outages.middle_of_slot("USR-B", random.Random(SEED))
    machine = outages.after(cut, tmp_path / "cut")
    assert machine.disk.digest("USR-B") != digest_of(second.image), "the cut came in mid-write"
    _boot_until_reboot(row, machine, None)
    assert machine.disk.digest("USR-B") == digest_of(second.image)
    assert machine.disk.slot("USR-B").may_boot
    machine.discard()

    count = scale(2, 50)
    row = scenario(TIER, f"{count} power cuts, each to READY")
    dice = random.Random(SEED)
    for number in range(count):
        cut = outages.any_moment(dice)
        print(f"power cut {number} of seed {SEED}: {cut}")
        machine = outages.after(cut, tmp_path / f"cut-{number}")
        seen = site.requests
        choice, guest = machine.boot_gptprio()
        outages.assert_whole(machine, choice.label)
        with guest:
            guest.wait_for(lambda seen=seen: site.requests > seen, f"request after {cut}")
        row.booted(choice.label)
        machine.discard()


def _update(row: Scenario, vm: VirtualMachine, outages: Outages, second: SystemSlot) -> None:
    """Let a machine update itself to `second` and confirm it, with all its writes recorded."""
    _boot_until_reboot(row, vm, outages)
    assert vm.disk.digest("USR-B") == digest_of(second.image), "slot B holds what was released"
    armed = vm.disk.slot("USR-B")
    assert (armed.tries, armed.successful) == (3, False)
    assert armed.priority > vm.disk.slot("USR-A").priority
    choice, guest = vm.boot_gptprio(write_log=outages.next_log())
    with guest:
        guest.wait_for(lambda: vm.disk.slot("USR-B").successful, "confirmation on the disk")
        guest.wait_for(lambda: NO_TICKET in (vm.var(TICKETS) or ""), "release of lockd's ticket", every=3.0)
    row.booted(choice.label)
    assert choice.label == "USR-B"
    state = vm.disk.var_json(STATE, vm.scratch)
    assert state is not None
    assert state["pending"] is None


@pytest.mark.long
def test_kernel_panic_falls_back(scenario: StartRow, site: Site, first: SystemSlot, tmp_path: Path) -> None:
    """A release whose kernel panics uses up its tries, the old slot comes back, and server and lockd hear of it."""
    row = scenario(TIER, "panic in B, back to A")
    broken = machine_slot(SystemRelease("2.0.0"), init=False)
    site.offer(broken, "2.0.0", old=first)
    vm = make_machine(tmp_path / "vm", first, port=site.port)
    _boot_until_reboot(row, vm, None)
    for left in (2, 1, 0):
        choice, guest = vm.boot_gptprio()
        with guest:
            guest.wait_off("panic")
        row.booted(None)
        assert choice.label == "USR-B"
        assert "Kernel panic" in guest.said()
        assert vm.disk.slot("USR-B").tries == left
    choice, guest = vm.boot_gptprio()
    with guest:
        guest.wait_for(site.rollbacks, "report of the rollback")
        guest.wait_for(lambda: "did not boot well" in (vm.var(TICKETS) or ""), "pause of the group by lockd", every=3.0)
    row.booted(choice.label)
    assert choice.label == "USR-A"
    assert not vm.disk.slot("USR-B").may_boot
    state = vm.disk.var_json(STATE, vm.scratch)
    assert state is not None
    assert state["failed_versions"] == ["2.0.0"]


def _boot_until_reboot(row: Scenario, vm: VirtualMachine, outages: Outages | None) -> None:
    """Boot slot A, and let the machine install the release on offer and ask for its reboot."""
    choice, guest = vm.boot_gptprio(write_log=outages.next_log() if outages else None)
    with guest:
        guest.wait_off("reboot into the new release")
    row.booted(choice.label)
    assert choice.label == "USR-A"
