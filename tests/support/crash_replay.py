"""Whole updates under a seam, every state that a cut may leave of them judged, and the host started again from some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.bootloader import choose, valid_copies
from tests.support.crash_host import BLOCK, NEW, OLD, V1, CrashHost, Releases, Session, small_steps
from tests.support.crash_images import CrashImages, Image, distinct
from tests.support.crash_judge import NO_PICK, TORN, Judge
from tests.support.crash_seam import Fault, Op, Seam, Tree, play

BOOTS = 4  # a host must have the new release by then


@dataclass(frozen=True)
class Recording:
    """What a boot of the agent changed."""

    start: Tree
    log: list[Op]
    fetched: int  # bytes

    def cut(self, disk_bytes: int) -> Image:
        """Return the media as they were in order, after so many bytes were written to slots."""
        tree, written = Tree(dict(self.start.files), dict(self.start.dirs)), 0
        for op in self.log:
            play(tree, op)
            written += len(op.data) if op.kind == "write" and op.offset >= 1024 * 1024 else 0
            if written >= disk_bytes:
                return tree.render()
        raise AssertionError(f"only {written} bytes were written")


@dataclass
class Figures:
    """What came out."""

    images: int = 0
    no_pick: int = 0
    torn: int = 0
    other: int = 0
    tried: int = 0
    converged: int = 0
    faults: list[str] = field(default_factory=list)

    def count(self, faults: list[str]) -> None:
        """Count an image."""
        self.images += 1
        self.no_pick += any(fault.startswith(NO_PICK) for fault in faults)
        self.torn += any(fault.startswith(TORN) for fault in faults)
        self.other += bool(faults) and not any(fault.startswith((NO_PICK, TORN)) for fault in faults)
        self.faults += [fault for fault in faults if fault not in self.faults]


class Replay:
    """One host and one payload."""

    def __init__(
        self, root: Path, releases: Releases, kind: str, *, direct: bool = True, buffer: int = 4 * BLOCK
    ) -> None:
        """Take a folder, payloads and which of them; whether writes go past the page cache, and how long they are."""
        self.host, self.kind, self.direct, self.buffer = (
            CrashHost(root, releases, verified=kind != V1),
            kind,
            direct,
            buffer,
        )
        self.release = releases.of[kind]

    def record(self, fault: Fault | None = None) -> Recording:
        """Boot once and record what the agent does until it wants a reboot."""
        session, seam = self._boot(fault)
        seam.check()
        return Recording(seam.start, seam.log, session.context.view.bytes_done)

    def _boot(self, fault: Fault | None = None) -> tuple[Session, Seam]:
        with small_steps(self.buffer):
            session = self.host.power_on()
            with Seam(self.host.media, direct=self.direct, fault=fault) as seam:
                session.run(self.release)
        return session, seam

    def update(self) -> Iterator[Recording]:
        """Record the install and the boot after it."""
        yield self.record()
        yield self.record()

    def converges(self, image: Image) -> list[str]:
        """Start the host from an image and let it run; return why it hasn't arrived at the new release."""
        self.host.restore(image)
        for _ in range(BOOTS):
            session, _ = self._boot()
            if session.context.known()[0].version == NEW and session.context.view.boot_confirmed:
                break
        return self.arrived(session)

    def falls_back(self, image: Image) -> list[str]:
        """Start the host from an image of an update that is never healthy; return why it isn't back on the old one."""
        self.host.restore(image)
        for _ in range(2 * BOOTS):
            session, _ = self._boot()
            if session.context.known()[0].version == OLD and session.context.memory.failed_versions:
                break
        slots, memory = session.boot.slots(), session.context.memory
        checks = {
            "the old release doesn't run": session.context.known()[0].version == OLD,
            "the bad one may boot": not slots[1].bootable,
            "the bad one isn't remembered": memory.failed_versions == [NEW] and memory.pending is None,
            "the floor is raised": session.context.means.store.floor() == 0,
        }
        return [what for what, good in checks.items() if not good]

    def arrived(self, session: Session) -> list[str]:
        """Return what isn't as it is after an update without cuts."""
        host, memory = self.host, session.context.memory
        left = [path.name for path in host.media.rglob("*.updated-new")]
        left += [path.name for path in (host.state / "install").glob("[a-z]*")]
        checks = {
            "the new release doesn't run": session.context.known()[0].version == NEW,
            "it isn't the next to boot": choose(host.disk).label == "USR-B" and choose(host.disk).successful,
            "the boot isn't confirmed": session.context.view.boot_confirmed and memory.pending is None,
            "the floor isn't raised": session.context.means.store.floor() == 2,
            "the old release is gone": self.content("A") == host.releases.images[OLD],
            f"left behind: {left}": not left,
            "an error is remembered": memory.last_error is None and not memory.failed_versions,
        }
        judged = Judge(host.releases, self.kind).faults(host.look())
        return [*(what for what, good in checks.items() if not good), *judged]

    def content(self, name: str) -> bytes:
        """Return what a slot holds."""
        disk = self.host.disk.read_bytes()
        slot = next(slot for slot in valid_copies(disk)[0].slots() if slot.label == f"USR-{name}")
        return disk[slot.offset : slot.offset + slot.size]


def judge_all(
    recordings: list[Recording], judge: Judge, replay: Replay, *, samples: int, every: int, until: str = ""
) -> Figures:
    """Judge every image of some recordings, and start the host from each image in so many.

    Args:
        recordings: one after the other.
        judge: who judges.
        replay: the host that is started again.
        samples: how many combinations are drawn between two flushes.
        every: the host is started from each image whose number is a multiple of it; 0: never.
        until: stop at the first fault that says this.
    """
    figures, seen = Figures(), set[int]()
    for number, recording in enumerate(recordings):
        seed = f"{replay.kind} {number} {len(recording.log)}"
        for image in distinct(CrashImages(recording.start, recording.log, seed, samples), seen):
            figures.count(judge.faults(image))
            if every and figures.images % every == 0:
                _converge(replay, image, figures)
            if until and any(until in fault for fault in figures.faults):
                return figures
    return figures


def _converge(replay: Replay, image: Image, figures: Figures) -> None:
    figures.tried += 1
    reasons = replay.converges(image) if replay.host.healthy else replay.falls_back(image)
    figures.converged += not reasons
    figures.faults += [f"after a restart: {reason}" for reason in reasons]
