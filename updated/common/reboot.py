"""The one way in which both daemons reboot the machine: through firmware and boot loader, which choose the slot.

Neither a kexec nor a soft reboot goes that way, so neither is ever asked for, whatever systemd has loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from updated.common.bus import Bus
from updated.common.process import Completed, run

LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
COMMAND_SECS = 60.0
# systemctl(1): without these its `reboot` goes by kexec once a kernel is loaded, or by a soft reboot once
# /run/nextroot is there
NO_SHORT_CUTS = {"SYSTEMCTL_SKIP_AUTO_SOFT_REBOOT": "1", "SYSTEMCTL_SKIP_AUTO_KEXEC": "1"}


async def reboot_plainly(bus: Bus) -> None:
    """Ask logind for a reboot that heeds its inhibitors; it answers before the machine goes down.

    `Reboot` with a plain False starts reboot.target and nothing else: only `RebootWithFlags` and systemctl itself look
    for a loaded kernel or a next root.

    Raises:
        BusCallError: logind says no (an inhibitor, a policy), or isn't there.
        BusError: it was asked, and no answer came.
    """
    await bus.call(*LOGIND, "Reboot", "b", [False])


async def run_reboot_command(argv: Sequence[str], alive: Callable[[], None] | None = None) -> Completed:
    """Run the command that somebody configured to reboot the machine; it has a minute.

    Args:
        argv: the command and its arguments.
        alive: called each second meanwhile, for the watchdog.

    Raises:
        OSError: it can't be started.
    """
    return await run(argv, timeout_secs=COMMAND_SECS, env={**os.environ, **NO_SHORT_CUTS}, alive=alive)
