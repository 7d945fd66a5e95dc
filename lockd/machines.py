"""The machines of a group as they describe themselves (pure).

A description decides nothing about who may reboot: it is for people, and for counting what a percentage is of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from lockd.tickets import NAME, TEXT_LIMIT, DamagedError, load_object, text_in


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine tells about itself; times are RFC 3339."""

    machine_id: str
    host: str = ""
    version: str = ""  # that it runs
    slot: str = ""  # that it runs from
    state: str = ""  # of its lockd, as in `lockctl explain`
    boot_id: str = ""
    seen: str = ""  # when it last wrote this


@dataclass(frozen=True, slots=True)
class Known:
    """A machine of which the store knows; `up`: it said so in the last minutes."""

    machine: Machine
    up: bool


def encode_machine(machine: Machine) -> bytes:
    """Write a machine's document; its id is in the key's name."""
    return json.dumps({name: str(getattr(machine, name))[:TEXT_LIMIT] for name in _TEXTS}).encode()


def decode_machine(machine_id: str, data: bytes) -> Machine:
    """Read a machine's document; one that can't be read has the state `damaged`."""
    try:
        if not NAME.fullmatch(machine_id):
            raise DamagedError("no machine id")
        document = load_object(data)
        return Machine(machine_id, **{name: text_in(document, name) for name in _TEXTS})
    except DamagedError:
        return Machine(machine_id[:TEXT_LIMIT], state="damaged")


_TEXTS = ("host", "version", "slot", "state", "boot_id", "seen")
