"""New settings for an agent that runs: which of them take effect at once, and which only after a restart.

What the agent has built itself on stays: where the slots, the state and the host's facts are, and which bus it is on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from updated.common.schema import flatten
from updated.config import Settings

FIXED_TABLES = ("host", "slots")
FIXED_KEYS = ("state_dir", "bus_address")
FREE_KEYS = ("slots.tries",)  # looked at when a slot is armed


@dataclass(frozen=True, slots=True)
class Change:
    """What another look at the files brought.

    Args:
        settings: what is in force from now on.
        changed: dotted keys that have a new value in there.
        needs_restart: dotted keys that have a new value in the files only.
    """

    settings: Settings
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def compare(running: Settings, read: Settings) -> Change:
    """Return what changes when `read` takes the place of `running`, as far as it can while the agent runs (pure)."""
    before, after = flatten(running), flatten(read)
    different = [key for key in after if after[key] != before[key]]
    settings = dataclasses.replace(
        read,
        host=running.host,
        slots=dataclasses.replace(running.slots, tries=read.slots.tries),
        state_dir=running.state_dir,
        bus_address=running.bus_address,
    )
    return Change(
        settings,
        changed=tuple(key for key in different if not is_fixed(key)),
        needs_restart=tuple(key for key in different if is_fixed(key)),
    )


def is_fixed(key: str) -> bool:
    """Tell whether a setting takes effect only after a restart."""
    return key not in FREE_KEYS and (key.partition(".")[0] in FIXED_TABLES or key in FIXED_KEYS)
