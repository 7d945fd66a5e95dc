"""Files of the daemon's that are damaged in odd ways, and a bus that says no: each is told, and nothing breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockd.errors import ErrorCode, LocalError
from lockd.store_local import LocalStore
from lockd.waiting import Waiting
from tests.support import dbus
from tests.support.moving_clock import MovingClock
from tests.support.processes import run_tool

DEAF = '<deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus" send_member="AddMatch"/>'
DEEP = "[" * 4000
WHOLE = '{{"revision": {number}, "settings_revision": 0, "settings": {{"max": 1}}, "tickets": {{}}}}'


@pytest.mark.parametrize("text", [DEEP, WHOLE.format(number="1e999"), WHOLE.format(number="NaN")])
async def test_odd_ticket_file_is_a_damaged_one(tmp_path: Path, text: str) -> None:
    """Brackets without end and numbers without bound are damage like any other."""
    (tmp_path / "tickets.json").write_text(text)
    with pytest.raises(LocalError, match="is damaged") as caught:
        await LocalStore(tmp_path / "tickets.json").read()
    assert caught.value.code is ErrorCode.STATE


def test_odd_waiting_file_begins_anew(tmp_path: Path) -> None:
    """Brackets without end cost the host its turn, not the daemon its life."""
    (tmp_path / "waiting.json").write_text(DEEP)
    now = MovingClock().now()
    assert Waiting(tmp_path / "waiting.json").begin(now) == now


def test_deaf_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bus whose policy refuses match rules is a bus that can't be used: exit code 4, and no traceback."""
    own = '<allow own="*"/>'
    monkeypatch.setattr(dbus, "CONFIG", dbus.CONFIG.replace(own, own + DEAF))
    (tmp_path / "boot_id").write_text("0" * 8 + "-0000-0000-0000-" + "0" * 12)
    (tmp_path / "lockd.toml").write_text(
        f'machine_id = "a"\nboot_id_file = "{tmp_path}/boot_id"\nstate_dir = "{tmp_path}/state"\n'
    )
    with dbus.private_bus(tmp_path / "bus") as address:
        env = {"LOCKD_CONFIG": str(tmp_path / "lockd.toml"), "LOCKD_BUS_ADDRESS": address}
        done = run_tool("lockd", env=env)
    assert done.returncode == 4, done.stderr
    assert "doesn't let lockd hear the update agent" in done.stderr
    assert "Traceback" not in done.stderr
