"""What happened, for programs: the MESSAGE_ID of journal entries that tell of a milestone (pinned, never reused).

`journalctl MESSAGE_ID=...` finds them on a host; updated(8) lists them for people.
"""

from __future__ import annotations

from typing import Final

UPDATE_ARMED: Final = "4f3969246a214e76bee8b3137217e652"  # installed; its slot is the next to boot
BOOT_CONFIRMED: Final = "1e2314293fde4358bf82d467db048466"  # a trial boot proved itself
ROLLED_BACK: Final = "21a46d8e8dfc479e8efff5e037fabf2b"  # the boot loader came back to the old slot
BOOT_UNHEALTHY: Final = "a9ec80773396424ba36c3a80a8bd8ab8"  # the health gate judged this boot bad
INSTALL_FAILED: Final = "7be9394b34ec410a89bc0fc3313c3e0a"  # a release was refused, or couldn't be installed
