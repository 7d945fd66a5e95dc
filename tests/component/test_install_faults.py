"""A fault at every write, flush and rename of an install: reported as what it is, nothing spoilt, healed by a retry."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.bootloader import valid_copies
from tests.support.campaign import scale
from tests.support.crash_host import BLOCK, NEW, OLD, Releases, Session, quick_folder, small_steps
from tests.support.crash_judge import Judge
from tests.support.crash_replay import Replay
from tests.support.crash_seam import Killed, Seam
from tests.support.faults import Injector, Kind
from tests.support.figures import note
from updated.errors import ErrorCode, UpdateError

pytestmark = pytest.mark.timeout(scale(300, 3600))
BUFFER = scale(16, 4) * BLOCK
AT_START = 12  # changes until the agent looks for work: its memory is written twice, at its start and once confirmed
KINDS: tuple[Kind, ...] = ("kill", "EIO", "ENOSPC", "short write", "other bytes")


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """The releases that all hosts here take."""
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(params=["full"])
def replay(releases: Releases, request: pytest.FixtureRequest) -> Iterator[Replay]:
    """A host that is to take a full payload with a kernel, whose index isn't to be had: with checkpoints."""
    with quick_folder("faults") as folder:
        yield Replay(folder, releases, request.param)


class Run:
    """One install with one fault."""

    def __init__(self, replay: Replay, injector: Injector) -> None:
        self.replay, self.host, self.injector = replay, replay.host, injector
        self.host.restore(self.host.factory)
        self.error: UpdateError | None = None
        self.killed = False
        with small_steps(BUFFER):
            self.session = self.host.power_on()
            self.changes = self._under_seam()

    def _under_seam(self) -> int:
        seam = Seam(self.host.media, fault=self.injector)
        self.injector.know(seam.start)
        with seam:
            try:
                self.session.run(self.replay.release)
            except UpdateError as error:
                self.error = error
            except Killed:
                self.killed = True
        return len(seam.log)

    def spoilt(self) -> list[str]:
        """Return what is different from before though the install didn't succeed."""
        faults = Judge(self.host.releases, self.replay.kind).faults(self.host.look())
        if self.injector.kind == "other bytes":  # nobody can know what such a medium holds before it is read back
            faults = [fault for fault in faults if "checkpoint" not in fault]
        slots = {slot.label: slot for slot in valid_copies(self.host.disk.read_bytes())[0].slots()}
        checks = {
            "the running slot's mark": (slots["USR-A"].priority, slots["USR-A"].successful) == (2, True),
            "the floor": not (self.host.state / "rollback-floor").exists(),
            "the versions that failed": self.session.context.memory.failed_versions == [],
            "the running slot": self.replay.content("A") == self.host.releases.images[OLD],
        }
        return [*faults, *(what for what, same in checks.items() if not same)]

    def retry(self) -> list[str]:
        """Install again, boot, and return what is wrong then."""
        with small_steps(BUFFER), Seam(self.host.media):
            if self.killed:
                self.session = self.host.restart()
                self.session.run(self.replay.release)
            elif self.error is not None or not self.session.context.view.boot_confirmed:
                self.session.retry(self.replay.release)
            booted: Session = self.host.power_on()
            booted.run(self.replay.release)
        return self.replay.arrived(booted)


@pytest.mark.parametrize(
    ("replay", "kind"),
    [*(("full", kind) for kind in KINDS), *(("full-v1", kind) for kind in KINDS[:3])],
    indirect=["replay"],
)
def test_a_fault_at_every_change(replay: Replay, kind: Kind, record_property) -> None:
    """Wherever it strikes: the pinned code, an intact slot to boot, the running one as it was, a good retry."""
    number, struck, reported = 0, 0, set[str]()
    while number < 10_000:
        run = Run(replay, Injector(kind, number))
        number += 1
        if run.injector.hit is None:
            if run.changes < number:
                break  # it has no more changes than these
            continue
        struck += 1
        # what can't be written down at the agent's start is noted, and doesn't keep it from its work
        expected = None if number <= AT_START and run.injector.place == "state" else run.injector.code
        if run.injector.place == "kept" and run.injector.hit.kind == "create" and kind != "kill":
            expected = ErrorCode.NO_SPACE  # what nothing proves before its end isn't written over a proven release
        assert (run.error.code if run.error else None) is expected, (run.injector.hit, run.error)
        assert run.killed == (kind == "kill")
        assert run.spoilt() == [], run.injector.hit
        assert run.retry() == [], run.injector.hit
        reported |= {run.error.name} if run.error else set()
    note(
        record_property,
        f"faults, {kind}" + (", version 1" if replay.kind == "full-v1" else ""),
        struck=struck,
        spoilt=0,
        healed_by_a_retry=struck,
        reported=sorted(reported),
    )
    assert struck >= 10


def test_a_slot_that_cannot_be_read_back(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A medium that takes everything and gives nothing back is reported as READ_BACK; a retry arrives."""
    honest, failed = os.preadv, list[int]()

    def fail(fd: int, *rest: Any) -> int:
        if not failed:
            failed.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return honest(fd, *rest)

    monkeypatch.setattr(os, "preadv", fail)
    run = Run(replay, Injector("EIO", 10_000))
    assert run.error is not None
    assert run.error.code is ErrorCode.READ_BACK
    assert run.spoilt() == []
    assert run.retry() == []
    assert run.session.context.memory.pending is not None
    assert run.session.context.memory.pending.version_to == NEW
