"""Power cuts of a machine whose writes were recorded: one run gives as many disks as there are moments in it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.vm.disk import MachineDisk
from tests.support.vm.machine import VirtualMachine
from tests.support.vm.writelog import Replay, Write


@dataclass(frozen=True)
class Moment:
    """A power cut: after so many requests of one recorded boot; `seed` decides what of the unflushed is lost."""

    boot: int
    requests: int
    seed: int


class Outages:
    """Records the boots of a machine, and makes the machine of any moment of them.

    Args:
        machine: before its first boot.
        releases: the SHA-256 of slots that hold a release, whole.
    """

    def __init__(self, machine: VirtualMachine, releases: Sequence[str]) -> None:
        self._machine, self._releases = machine, releases
        self._logs: list[Path] = []
        self._before: list[MachineDisk] = []  # the disk in front of each recorded boot
        self._replays: dict[int, Replay] = {}

    def next_log(self) -> Path:
        """Keep the disk as it is, and return where the next boot's writes are to be recorded."""
        number = len(self._logs)
        self._before.append(self._machine.disk.copy(self._machine.folder / f"before-{number}.img"))
        self._logs.append(self._machine.folder / f"writes-{number}.log")
        return self._logs[-1]

    def any_moment(self, dice: random.Random) -> Moment:
        """Return a moment of the recorded boots: half of them among all requests, half among those beside the slots."""
        slots = [self._machine.disk.places[label] for label in ("USR-A", "USR-B")]
        moments = [(boot, index + 1, write) for boot in range(len(self._logs)) for index, write in self._writes(boot)]
        beside = [
            moment for moment in moments if not any(0 <= moment[2].offset - offset < size for offset, size in slots)
        ]
        boot, requests, _write = dice.choice(dice.choice((moments, beside)))
        return Moment(boot, requests, dice.getrandbits(32))

    def middle_of_slot(self, label: str, dice: random.Random) -> Moment:
        """Return a moment with half of a slot's writes done."""
        offset, size = self._machine.disk.places[label]
        for boot in range(len(self._logs)):
            writes = self._replay(boot).writes
            inside = [index for index, write in enumerate(writes) if offset < write.offset < offset + size]
            if inside:
                return Moment(boot, inside[len(inside) // 2] + 1, dice.getrandbits(32))
        raise AssertionError(f"no recorded boot wrote to {label}")

    def end_of(self, boot: int) -> Moment:
        """Return the moment behind the last request of a recorded boot."""
        return Moment(boot, len(self._replay(boot).writes), boot)

    def after(self, moment: Moment, folder: Path, *, flushes: bool = True) -> VirtualMachine:
        """Return the machine that has its power back: its disk has what was flushed, and some of the rest.

        Without `flushes` it has some of everything, as from a disk that takes no notice of them.
        """
        folder.mkdir()
        disk = self._before[moment.boot].copy(folder / "disk.img")
        cut = self._replay(moment.boot).cut(disk.path, moment.requests, random.Random(moment.seed), flushes=flushes)
        print(f"boot {moment.boot}: {cut}")
        return VirtualMachine(folder, disk)

    def assert_whole(self, machine: VirtualMachine, label: str) -> None:
        """See that a slot holds one of the releases, to the last byte."""
        assert machine.disk.digest(label) in self._releases, f"{label} may boot and holds no release"

    def _writes(self, boot: int) -> Iterator[tuple[int, Write]]:
        return enumerate(self._replay(boot).writes)

    def _replay(self, boot: int) -> Replay:
        if boot not in self._replays:
            self._replays[boot] = Replay(self._logs[boot])
        return self._replays[boot]
