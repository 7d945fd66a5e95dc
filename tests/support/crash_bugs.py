"""Wrong orders of the write path, each a small patch of it: what a replay of power cuts must catch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.crash_host import BLOCK
from tests.support.crash_judge import NO_PICK, TORN
from tests.support.crash_seam import Fault, Op
from tests.support.faults import SLOTS
from updated.agent import memory
from updated.agent.boot_work import BootWork
from updated.agent.context import Context
from updated.common import durable
from updated.install.checkpoint import Checkpoint, Journal
from updated.install.files import FileTarget
from updated.install.hash_partition import HashPartition
from updated.install.kept import Keeper
from updated.install.medium import Target
from updated.install.readback import ReadBack
from updated.slots.boot.gptprio import GptPrio
from updated.slots.disk import FileDisk
from updated.slots.layout import Slot

Patch = Callable[[pytest.MonkeyPatch], None]


def _nothing(*_: Any, **__: Any) -> None:
    pass


def no_unmark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GptPrio, "unmark", _nothing)


def unmark_after_the_data(patch: pytest.MonkeyPatch) -> None:
    honest, check = GptPrio.unmark, ReadBack.finish
    late: list[Callable[[], None]] = []

    def check_first(*given: Any) -> None:
        check(*given)
        late.pop()()

    patch.setattr(GptPrio, "unmark", lambda self, slot: late.append(lambda: honest(self, slot)))
    patch.setattr(ReadBack, "finish", check_first)


def unmark_not_flushed(patch: pytest.MonkeyPatch) -> None:
    honest = GptPrio.unmark

    def lazy(self: GptPrio, slot: Slot) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(FileDisk, "flush", _nothing)
            honest(self, slot)

    patch.setattr(GptPrio, "unmark", lazy)


def no_flush_of_data(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Target, "flush", _nothing)


def no_flush_of_tables(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FileDisk, "flush", _nothing)


def one_flush_for_both_tables(patch: pytest.MonkeyPatch) -> None:
    honest, count = FileDisk.flush, [0]

    def every_second(self: FileDisk) -> None:
        count[0] += 1
        if count[0] % 2 == 0:
            honest(self)

    patch.setattr(FileDisk, "flush", every_second)


def arm_before_the_data(patch: pytest.MonkeyPatch) -> None:
    honest = GptPrio.unmark

    def unmark_and_arm(self: GptPrio, slot: Slot) -> None:
        honest(self, slot)
        self.arm(slot, 3)

    patch.setattr(GptPrio, "unmark", unmark_and_arm)


def arm_below_the_running_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GptPrio, "_priority_above", lambda *_: 1)


def arm_before_it_is_remembered(patch: pytest.MonkeyPatch) -> None:
    honest = Context.save

    def only_afterwards(self: Context) -> None:
        if self.memory.pending is None or self.memory.pending.armed:
            honest(self)

    patch.setattr(Context, "save", only_afterwards)


def remembered_as_armed_before_it_is(patch: pytest.MonkeyPatch) -> None:
    honest = Context.save

    def early(self: Context) -> None:
        if self.memory.pending is not None:
            self.memory.pending = dataclasses.replace(self.memory.pending, armed=True)
        honest(self)

    patch.setattr(Context, "save", early)


def state_written_in_place(patch: pytest.MonkeyPatch) -> None:
    def in_place(path: Path, data: bytes, mode: int = 0o600) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)

    patch.setattr(memory, "write_atomic", in_place)


def state_renamed_without_a_flush(patch: pytest.MonkeyPatch) -> None:
    def unflushed(path: Path, data: bytes, mode: int = 0o600) -> None:
        beside = path.with_name(f".{path.name}.tmp")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        os.write(fd, data)
        os.close(fd)
        beside.replace(path)
        durable.sync_directory(path.parent)

    patch.setattr(memory, "write_atomic", unflushed)


def directory_not_flushed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(durable, "sync_directory", _nothing)


def checkpoint_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    honest, write, owed = Target.flush, Journal.write, list[Target]()

    def write_then_flush(self: Journal, checkpoint: Checkpoint) -> None:
        write(self, checkpoint)
        while owed:
            honest(owed.pop())

    check = ReadBack.finish

    def check_honestly(self: ReadBack, *given: Any) -> None:
        honest(self._target)
        check(self, *given)

    patch.setattr(Target, "flush", lambda self: owed.append(self))  # noqa: PLW0108 - a builtin isn't bound
    patch.setattr(Journal, "write", write_then_flush)
    patch.setattr(ReadBack, "finish", check_honestly)


def checkpoint_ahead_of_the_work(patch: pytest.MonkeyPatch) -> None:
    honest = Journal.write

    def boast(self: Journal, checkpoint: Checkpoint) -> None:
        more = checkpoint.operations + 4 if checkpoint.operations else 0
        honest(self, dataclasses.replace(checkpoint, operations=more))

    patch.setattr(Journal, "write", boast)


def kept_bytes_not_flushed(patch: pytest.MonkeyPatch) -> None:
    def hasty(self: Keeper) -> None:
        if self._journal is not None and self.kept != self._saved:
            self._saved = self.kept
            self._write_checkpoint(self._journal, self.kept)

    patch.setattr(Keeper, "_save", hasty)


def no_read_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReadBack, "finish", lambda self, _meter: self._target.flush())


def bad_medium() -> Fault:
    """Return a fault that stores one write of a slot wrongly."""
    broken: list[int] = []

    def lie(number: int, op: Op) -> bytes | None:
        if op.kind == "write" and op.device and op.offset in SLOTS and not broken:
            broken.append(number)
            return b"\xa5" * 512 + op.data[512:]
        return None

    return lie


def kernel_before_the_unmark(patch: pytest.MonkeyPatch) -> None:
    honest = GptPrio.unmark

    def rename_first(self: GptPrio, slot: Slot) -> None:
        kernel = self.files_of(slot)["kernel"]
        durable.write_atomic(kernel, b"new kernel" * 700)
        honest(self, slot)

    patch.setattr(GptPrio, "unmark", rename_first)


def kernel_not_flushed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FileTarget, "check", _nothing)


def tree_before_the_unmark(patch: pytest.MonkeyPatch) -> None:
    honest = GptPrio.unmark

    def write_first(self: GptPrio, slot: Slot) -> None:
        place = self.verity_of(slot)
        assert place
        fd = os.open(place[0], os.O_RDWR)
        os.pwrite(fd, b"another tree", place[1] + BLOCK)
        os.fsync(fd)
        os.close(fd)
        honest(self, slot)

    patch.setattr(GptPrio, "unmark", write_first)


def tree_not_flushed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HashPartition, "check", lambda self: self._writer.flush())


def files_removed_before_the_unmark(patch: pytest.MonkeyPatch) -> None:
    honest = GptPrio.unmark

    def remove_first(self: GptPrio, slot: Slot) -> None:
        for path in self.files_of(slot).values():
            if path.exists():
                durable.remove_durably(path)
        honest(self, slot)

    patch.setattr(GptPrio, "unmark", remove_first)


def initrd_left_out(patch: pytest.MonkeyPatch) -> None:
    honest = FileTarget.commit
    patch.setattr(FileTarget, "commit", lambda self: None if self.path.name.startswith("initrd") else honest(self))


def good_before_it_is_healthy(patch: pytest.MonkeyPatch) -> None:
    honest = BootWork.judge_health

    async def hasty(self: BootWork) -> Any:
        self._context.means.boot.confirm(self._context.known()[1])
        return await honest(self)

    patch.setattr(BootWork, "judge_health", hasty)


def floor_before_it_is_good(patch: pytest.MonkeyPatch) -> None:
    honest = BootWork._confirm

    async def raise_first(self: BootWork) -> None:
        if (pending := self._context.memory.pending) is not None:
            self._context.means.store.raise_floor(pending.rollback_index)
        await honest(self)

    patch.setattr(BootWork, "_confirm", raise_first)


@dataclasses.dataclass(frozen=True)
class Bug:
    """A patch, and what the judge must say of it; `every`: the host is started again from each so many images."""

    patch: Patch
    sign: str
    kind: str = "reuse"
    every: int = 0
    healthy: bool = True
    fault: Callable[[], Fault] | None = None


NOT_THERE, REMEMBERED = "claims what isn't on the medium", "nobody remembers it"
BUGS: dict[str, Bug] = {
    "the slot is not un-marked": Bug(no_unmark, TORN),
    "un-marked after the data": Bug(unmark_after_the_data, TORN, "delta"),
    "the un-marking is not flushed": Bug(unmark_not_flushed, TORN),
    "the data are not flushed": Bug(no_flush_of_data, TORN),
    "the tables are not flushed": Bug(no_flush_of_tables, NO_PICK),
    "one flush for both tables": Bug(one_flush_for_both_tables, NO_PICK),
    "armed before the data": Bug(arm_before_the_data, TORN),
    "armed below the running slot": Bug(arm_below_the_running_slot, "the new release doesn't run", every=20),
    "armed before it is remembered": Bug(arm_before_it_is_remembered, REMEMBERED),
    "remembered as armed before it is": Bug(remembered_as_armed_before_it_is, "as armed, and isn't"),
    "the state is written in place": Bug(state_written_in_place, "the state is torn"),
    "the state is renamed without a flush": Bug(state_renamed_without_a_flush, "the state is torn"),
    "the state's directory is not flushed": Bug(directory_not_flushed, REMEMBERED),
    "the checkpoint comes before the flush": Bug(checkpoint_before_the_flush, NOT_THERE, "delta"),
    "the checkpoint is ahead of the work": Bug(checkpoint_ahead_of_the_work, NOT_THERE, "delta"),
    "the kept bytes are not flushed": Bug(kept_bytes_not_flushed, "claims bytes that weren't kept", "full-v1"),
    "a bad medium is not read back": Bug(no_read_back, TORN, fault=bad_medium),
    "the tree is written before the un-marking": Bug(tree_before_the_unmark, f"{TORN}: USR-B has 0.9.0 and the tree"),
    "the tree is neither flushed nor checked": Bug(tree_not_flushed, f"{TORN}: USR-B has 1.1.0 and the tree", "full"),
    "the old files go before the un-marking": Bug(files_removed_before_the_unmark, "the vmlinuz of nobody"),
    "the initrd isn't put in place": Bug(initrd_left_out, "has 1.1.0 and may boot with the initrd of nobody"),
    "the kernel is in place before the un-marking": Bug(
        kernel_before_the_unmark, "with the vmlinuz of 1.1.0", "full-v1"
    ),
    "the kernel is neither flushed nor checked": Bug(kernel_not_flushed, "vmlinuz is torn", "full-v1"),
    "marked good before it is healthy": Bug(good_before_it_is_healthy, "is marked good", healthy=False),
    "the floor rises before the slot is good": Bug(floor_before_it_is_good, "the rollback floor is above"),
}
