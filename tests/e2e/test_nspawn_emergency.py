"""A release that ends in systemd's emergency mode, where no daemon runs that could fall back."""

from __future__ import annotations

import re
from pathlib import Path

from fixtures.image.slot import SystemRelease, slot_digest
from tests.e2e.conftest import MakeHost, StartRow
from tests.e2e.releases import FIRST
from tests.support.nspawn_able import needs_machine
from tests.support.nspawn_server import ReleaseServer

PAGE = Path(__file__).parents[2] / "docs/image-integration.md"
DROP_IN = "etc/systemd/system/emergency.service.d/50-reboot.conf"
# a mount that the system can't do without, of a kind that the kernel doesn't know
FSTAB = "none /srv filesystem-of-the-next-kernel defaults 0 0\n"
pytestmark = needs_machine()


def of_page(name: str) -> str:
    """Return a file that the page for image builders writes."""
    found = re.search(
        rf"^\$ cat >root/{re.escape(name)} <<'EOF'\n(.*?)^EOF$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found
    return found[1]


def test_emergency_mode_falls_back(nspawn_host: MakeHost, release_server: ReleaseServer, scenario: StartRow) -> None:
    """With the page's drop-in such a release costs its tries, and the machine is back on the old one by itself."""
    row = scenario("nspawn", "emergency mode, back to A")
    stuck = SystemRelease("1.1.0-stuck", files={"etc/fstab": FSTAB, DROP_IN: of_page(DROP_IN)})
    release_server.publish(stuck)
    host = nspawn_host()
    host.write("updated/conf.d/50-test.toml", release_server.settings + "\n[slots]\ntries = 2\n")
    row.booted(host.boot().label)
    host.wait_status("confirmed boot", boot_confirmed=True)
    host.run("update-ctl", "update", "--wait", check=False)  # the reboot may come before its last line
    for left in (1, 0):
        row.booted(host.wait_reboot(wait=False).label)
        assert host.bits()["USR-B"].tries == left
    row.booted(host.wait_reboot().label)
    assert host.boots == ["USR-A", "USR-B", "USR-B", "USR-A"]
    status = host.wait_status("confirmed boot", boot_confirmed=True, version_booted=FIRST.version, slot_booted="A")
    assert status["failed_versions"] == [stuck.version]
    assert "emergency" in host.messages("-u", "emergency.service", boot=-1).lower()
    assert host.shut_down() == 0
    assert host.slot_digest("USR-A") == slot_digest(FIRST)
