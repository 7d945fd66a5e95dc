"""What happened, for programs: the MESSAGE_ID of journal entries that tell of a milestone (pinned, never reused).

`journalctl MESSAGE_ID=...` finds them on a host; lockd(8) lists them for people.
"""

from __future__ import annotations

from typing import Final

REBOOT_BEGINS: Final = "0e4e9604f6d0499f9c0db8af2b71e97d"  # logind is asked now
REBOOT_NOT_PERMITTED: Final = "ccdc27ce02394c44a48558ddc4fc8b6c"  # logind wouldn't reboot: nothing is drained for it
SET_BACK: Final = "8ee742bce6944df980d9f597da017f26"  # a drain or a reboot failed, and nothing is tried for a while
TICKET_TAKEN: Final = "2ec79411e51d417e84c7686466dbf179"  # this host has a slot
TICKET_RELEASED: Final = "44906cd2deef47f49cb4916bc50ba439"  # it came back healthy
ROLLED_BACK: Final = "39d3f77b132a49f0a258dcf81ede48c5"  # it came back with the old version
POST_BOOT_FAILED: Final = "e49e594c58a14ebe9db6b268585fcd28"  # it isn't in service again
SETTINGS_WRONG: Final = "2aafacd05dbc4e1a900579131b33020d"  # nothing reboots until they are corrected
