"""GRUB's way, with RAUC's variables: ORDER, and for each slot _OK and _TRY, in GRUB's environment block.

GRUB's script takes the first slot of ORDER whose _OK is 1 and whose _TRY is 0, and makes its _TRY 1 before it boots it
(fixtures/grub/slots.cfg; RAUC's own script does it as well). So every boot is a trial: `confirm` makes _TRY 0 again in
each of them, and a slot that was armed has one boot, however many tries it is armed for.

What a slot is, is read off the three variables:

* the one that runs is proven while its _TRY is 0;
* the other one is un-bootable unless _OK is 1, given up when _TRY isn't 0, armed when it is before the running one in
  ORDER, proven when it is behind it.

The block is written in place. GRUB doesn't replay a file system's journal: were the file replaced by a new one, GRUB
might, after a crash, find the old one still and write its _TRY into blocks that are another file's by then. A second
block beside it, `grubenv.proven`, names the slot that was confirmed last, for a script that can't use the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from updated.errors import ErrorCode, LocalError
from updated.slots.boot import Contents
from updated.slots.boot.envblock import NAME, EnvBlock, changed_block, new_block, parse_block
from updated.slots.boot.envfile import EnvFile
from updated.slots.layout import NAMES, Slot
from updated.slots.partitions import Partitions, SlotPlaces, refuse_other, refuse_without_fallback

PROVEN = "PROVEN"


@dataclass(frozen=True, slots=True)
class _State:
    """The block, what is wrong with it, and the slots that it describes."""

    block: EnvBlock | None
    problem: str
    slots: tuple[Slot, ...]
    running: Slot

    @property
    def other(self) -> Slot:
        return next(slot for slot in self.slots if slot.partuuid != self.running.partuuid)


class GrubEnv(SlotPlaces):
    """The slots of a host that GRUB boots.

    Args:
        parts: the slots' partitions.
        environment: the environment block that GRUB's script loads and saves.
        proven: the block that names the slot which was confirmed last.
    """

    def __init__(self, parts: Partitions, environment: EnvFile, proven: EnvFile) -> None:
        self._parts, self._environment, self._proven = parts, environment, proven

    def slots(self) -> tuple[Slot, ...]:
        """Return both slots, A first; with a damaged block none is proven, and none but the running one can boot.

        Raises:
            LocalError: GPT_INVALID, SLOT_NOT_FOUND, BOOT_CONTROL, BOOT_FILES.
        """
        return self._read().slots

    def booted(self) -> Slot:
        """Return the slot whose root is mounted.

        Raises:
            LocalError: as `slots`.
        """
        return self._read().running

    def unmark(self, slot: Slot) -> None:
        """Make a slot un-bootable: its _OK 0 and its _TRY 1, so that no single bit undoes it; the running one first.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: BOOT_CONTROL when this boot isn't confirmed; BOOT_READ_ONLY; as `slots`.
        """
        state = self._read()
        self._parts.refuse_running(slot, state.running)
        self._write(state, {slot.name: ("0", "1")}, first=state.running.name)

    def arm(self, slot: Slot, tries: int, contents: Contents | None = None) -> None:
        """Make a slot the next to boot, for one boot: GRUB's script counts no further.

        Its kernel is found by the slot's letter, so that what was put there needn't be written anywhere.

        Raises:
            RefusedError: TARGET_IS_RUNNING.
            LocalError: BOOT_CONTROL when this boot isn't confirmed; BOOT_READ_ONLY; as `slots`.
        """
        if tries < 1:
            raise ValueError(f"a slot is armed for at least 1 try, not {tries}")
        state = self._read()
        self._parts.refuse_running(slot, state.running)
        self._write(state, {slot.name: ("1", "0")}, first=slot.name)

    def confirm(self, slot: Slot) -> None:
        """Mark this boot as good, and remember the slot as the one that was proven last; mend a damaged block.

        Raises:
            LocalError: BOOT_CONTROL when `slot` isn't the running one; BOOT_READ_ONLY; as `slots`.
        """
        state = self._read()
        refuse_other(slot, state.running)
        armed = state.other.tries > 0 and state.block is not None
        self._write(state, {slot.name: ("1", "0")}, first=state.other.name if armed else slot.name)
        proven = self._proven.read()
        try:
            known = parse_block(proven).get(PROVEN) if proven else ""
        except ValueError:
            known = ""
        if known != slot.name:
            self._proven.write(new_block({PROVEN: slot.name}))

    def give_up(self, slot: Slot) -> None:
        """Let the other slot be first, and the running one be tried.

        Raises:
            LocalError: BOOT_CONTROL when `slot` isn't the running one, or when the other slot isn't proven;
                BOOT_READ_ONLY; as `slots`.
        """
        state = self._read()
        refuse_other(slot, state.running)
        refuse_without_fallback(state.running, state.other)
        self._write(state, {slot.name: ("1", "1")}, first=state.other.name)

    def notes(self) -> tuple[str, ...]:
        """Return which block it is, what its variables are, and what is wrong.

        Raises:
            LocalError: as `slots`.
        """
        state = self._read()
        block = self._environment.path
        said = [f"The slots are partitions of {self._parts.path}; GRUB chooses by the variables in {block}."]
        if state.block is None:
            said.append(
                f"The environment block can't be used ({state.problem}): GRUB boots the slot that was proven last. The"
                " next confirmed boot writes it anew."
            )
        else:
            names = ("ORDER", *(f"{letter}_{what}" for letter in NAMES for what in ("OK", "TRY")))
            said.append("It has " + ", ".join(f"{name}={_shown(state.block, name)}" for name in names) + ".")
        said += self._environment.oddities()
        return (*said, *self._parts.notes())

    def _read(self) -> _State:
        plain = self._parts.slots(self._parts.read().table)
        running = self._parts.running(plain)
        raw, block, problem = self._environment.read(), None, "it isn't there"
        if raw is not None:
            try:
                block = parse_block(raw)
            except ValueError as error:
                problem = str(error)
        slots = tuple(_with_variables(slot, block, running) for slot in plain)
        return _State(block, problem, slots, next(slot for slot in slots if slot.partuuid == running.partuuid))

    def _write(self, state: _State, marks: Mapping[str, tuple[str, str]], *, first: str) -> None:
        """Write ORDER with one slot first, _OK and _TRY of the slots in `marks`; the others' as they are."""
        known = state.block.get("ORDER").split() if state.block else []
        further = [name for name in known if name not in NAMES and NAME.fullmatch(name)]  # a rescue system's
        values = {"ORDER": " ".join([*sorted(NAMES, key=lambda name: name != first), *further])}
        for letter in NAMES:
            ok, tried = marks.get(letter) or _marks(state.block, letter)
            values |= {f"{letter}_OK": ok, f"{letter}_TRY": tried}
        try:
            data = changed_block(state.block, values) if state.block else new_block(values)
        except ValueError as error:
            raise LocalError(
                ErrorCode.BOOT_FILES,
                f"{self._environment.path} can't be changed: {error}",
                hint=f"Remove variables that nothing needs: `grub-editenv {self._environment.path} unset NAME`.",
            ) from error
        if state.block is None or data != state.block.raw:
            self._environment.write(data)


def _marks(block: EnvBlock | None, letter: str) -> tuple[str, str]:
    """Return _OK and _TRY of a slot as one digit each; what is damaged counts as not OK and as tried."""
    if block is None:
        return "0", "1"
    ok, tried = block.get(f"{letter}_OK"), block.get(f"{letter}_TRY")
    return "1" if ok == "1" else "0", "0" if tried == "0" else "1"


def _with_variables(slot: Slot, block: EnvBlock | None, running: Slot) -> Slot:
    """Return a slot with the bits that the variables say."""
    order = block.get("ORDER").split() if block else []
    ok, tried = _marks(block, slot.name)
    if slot.name not in order or ok != "1":
        return replace(slot, priority=0, tries=0, successful=False)
    ahead = [name for name in order[: order.index(slot.name)] if name in NAMES]
    fresh = tried == "0"
    armed = fresh and slot.name != running.name and running.name not in ahead
    return replace(slot, priority=1 if ahead else 2, tries=1 if armed else 0, successful=fresh and not armed)


def _shown(block: EnvBlock, name: str) -> str:
    value = block.get(name)
    return repr(value) if name not in block.variables or not value.isprintable() else value
