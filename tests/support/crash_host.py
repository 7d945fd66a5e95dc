"""A host in small for power cuts: its media are one folder, its agent is the real one without D-Bus and server.

`media` has the disk, the state directory and the folder of the kernels: what a seam watches. A boot loader model picks
the slot; which version runs is told by the slot's content.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

from tests.support.bootloader import boot
from tests.support.crash_images import Image
from tests.support.disks import Bits, make_disk
from tests.support.moving_clock import MovingClock
from updated.agent.boot_work import BootWork
from updated.agent.by_hand import given_file
from updated.agent.context import Context, Means
from updated.agent.install_work import InstallWork
from updated.agent.machine import Event
from updated.agent.memory import Store
from updated.config import HealthSettings, HostSettings, ServerSettings, Settings, SlotSettings, TrustSettings
from updated.errors import UpdateError
from updated.install import crew
from updated.omaha.protocol import Offer
from updated.release import delta_plan
from updated.release.build import BuildRequest, build
from updated.release.sign import keygen
from updated.release.slot_parts import tree_of
from updated.slots.boot.gptprio import GptPrio
from updated.slots.layout import HostPaths
from updated.wiring import layout_of

BLOCK = 4096
SLOT_BYTES = 256 * 1024
PRODUCT = "org.example.crash"
OLDER, OLD, NEW = "0.9.0", "1.0.0", "1.1.0"
INDEX = 2  # the new release's rollback index
CHECKPOINT_BYTES = 96 * 1024
KINDS = ("full", "full-v1", "reuse", "delta")  # all but version 1 bring a whole set: root, tree, kernel, initrd
V1 = "full-v1"  # brings a root and a kernel
HASH_BYTES = 64 * 1024  # a slot's hash partition
BOTH = {"USR-A": Bits(priority=2, successful=True), "USR-B": Bits(priority=1, successful=True)}


@dataclass(frozen=True)
class Release:
    """A payload and the SHA-256 that a server would name."""

    payload: Path
    sha256: bytes


class Releases:
    """Three images, the newest as payloads of each kind: made once for all power cuts."""

    def __init__(self, folder: Path) -> None:
        keygen(folder / "keys")
        self.keys = folder / "keys"
        self.images = make_images(random.Random(2026))
        self.files = {
            "vmlinuz": {OLDER: b"older kernel" * 400, OLD: b"old kernel" * 500, NEW: b"new kernel" * 700},
            "initrd": {OLDER: b"older initrd" * 200, OLD: b"old initrd" * 300, NEW: b"new initrd" * 500},
        }
        paths = {version: folder / f"{version}.img" for version in self.images}
        for version, path in paths.items():
            path.write_bytes(self.images[version])
        self.trees = {version: tree_of(path).data for version, path in paths.items()}
        for name, contents in self.files.items():
            (folder / name).write_bytes(contents[NEW])
        self.of = {kind: self._build(folder / kind, kind, paths) for kind in KINDS}
        self.of["full"].payload.with_suffix(".index").unlink()  # a mirror that lacks it: all of it is fetched
        paths[NEW] = paths[OLDER]
        self.other = self._build(folder / "other", "delta", paths)  # a delta to another image

    def _build(self, out: Path, kind: str, paths: dict[str, Path]) -> Release:
        request = BuildRequest(
            image=paths[NEW],
            product=PRODUCT,
            channel="stable",
            version=NEW,
            rollback_index=INDEX,
            key=self.keys / "private.pem",
            out=out,
            major=1 if kind == V1 else 2,
            chunk_kib=8,
            kernel=out.parent / "vmlinuz",
            initrd=None if kind == V1 else out.parent / "initrd",
            make_verity=kind != V1,
            old=paths[OLD] if kind == "delta" else None,
        )
        with small_pieces():
            payload = build(request).with_name(f"{PRODUCT}-{NEW}.payload")
        return Release(payload, sha256(payload.read_bytes()).digest())


def make_images(chance: random.Random) -> dict[str, bytes]:
    """Return the images: the new one has blocks of both others, some with few changes, zeros, and fresh ones."""
    count = SLOT_BYTES // BLOCK
    older, old = ([chance.randbytes(BLOCK) for _ in range(count)] for _ in range(2))
    new = []
    for at in range(count):
        if at < 16:
            new.append(old[at + 20])
        elif at < 22:
            new.append(bytes(BLOCK))
        elif at < 36:
            new.append(old[at][:100] + chance.randbytes(5) + old[at][105:])
        elif at < 48:
            new.append(older[at + 14])  # from behind its place, as leftovers of the target must be
        else:
            new.append(chance.randbytes(BLOCK))
    return {OLDER: b"".join(older), OLD: b"".join(old), NEW: b"".join(new)}


class CrashHost:
    """Slot A runs the old release, slot B has an older one that could still boot; both are whole sets."""

    def __init__(self, root: Path, releases: Releases, *, verified: bool = True) -> None:
        self.root, self.releases, self.media, self._verified = root, releases, root / "media", verified
        self.disk, self.state = self.media / "disk.img", self.media / "state"
        for folder in (self.state, self.media / "boot", root / "keys"):
            folder.mkdir(parents=True)
        images = {}
        for label, version in (("USR-A", OLD), ("USR-B", OLDER)):
            images[label] = root / f"{label}.img"
            images[label].write_bytes(releases.images[version])
            images[f"{label}-VERITY"] = root / f"{label}-VERITY.img"
            images[f"{label}-VERITY"].write_bytes(releases.trees[version])
            for name, contents in releases.files.items():
                (self.media / f"boot/{name}-{label[-1].lower()}").write_bytes(contents[version])
        make_disk(self.disk, SLOT_BYTES, images, bits=BOTH, hash_bytes=HASH_BYTES)
        shutil.copy(releases.keys / "public.pem", root / "keys/release.pem")
        (root / "mountinfo").write_text("")
        (root / "cmdline").write_text("quiet\n")
        (root / "machine-id").write_text(uuid.uuid4().hex + "\n")
        self.healthy = True
        self.reboots = 0
        self.factory = self.look()

    def look(self) -> Image:
        """Return what is on the media."""
        found = {}
        for path in self.media.rglob("*"):
            name = str(path.relative_to(self.media))
            found[name + "/" if path.is_dir() else name] = b"" if path.is_dir() else path.read_bytes()
        return found

    def restore(self, image: Image) -> None:
        """Put an image on the media."""
        shutil.rmtree(self.media)
        self.media.mkdir()
        for name in sorted(image):
            path = self.media / name
            if name.endswith("/"):
                path.mkdir()
            else:
                path.write_bytes(image[name])

    def power_on(self) -> Session:
        """Let the boot loader pick a slot, and return the agent on it."""
        choice = boot(self.disk)
        with self.disk.open("rb") as file:
            file.seek(choice.offset)
            content = file.read(choice.size)
        version = next((name for name, known in self.releases.images.items() if known == content), "torn")
        (self.root / "os-release").write_text(f"VERSION_ID={version}\n")
        (self.root / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self._running = choice.partuuid
        return self.restart()

    def restart(self) -> Session:
        """Return a new run of the agent in the same boot."""
        return Session(self, self._running)

    def _checks(self) -> tuple[tuple[str, ...], ...]:
        return () if self.healthy else (("grep", "-q", OLD, str(self.root / "os-release")),)

    def settings(self) -> Settings:
        """Return what the agent is told."""
        root = self.root
        return Settings(
            server=ServerSettings(product=PRODUCT),
            trust=TrustSettings(keys_dir=root / "keys", allow_version_1=True),
            slots=SlotSettings(
                disk=self.disk,
                kernel_path=self.media / "boot/vmlinuz-{slot}",
                initrd_path=self.media / "boot/initrd-{slot}" if self._verified else None,
                verity_labels=("USR-A-VERITY", "USR-B-VERITY") if self._verified else (),
            ),
            health=HealthSettings(units=(), commands=self._checks(), deadline_secs=0.0),
            host=HostSettings(
                cmdline=root / "cmdline",
                mountinfo=root / "mountinfo",
                boot_id=root / "boot_id",
                machine_id=root / "machine-id",
                os_release=root / "os-release",
                root=root,
            ),
            state_dir=self.state,
        )


class Session:
    """The agent between two boots: no bus, no server, everything else as it is."""

    def __init__(self, host: CrashHost, partuuid: str) -> None:
        settings = host.settings()
        self.host = host
        self.boot = GptPrio(host.disk, booted_partuuids=(partuuid,), layout=layout_of(settings.slots))
        means = Means(
            settings=settings,
            clock=MovingClock(datetime(2026, 5, 5, 12, tzinfo=UTC)),
            boot=self.boot,
            host=HostPaths(cmdline=settings.host.cmdline, mountinfo=settings.host.mountinfo, root=host.root),
            store=Store(host.state),
            fraction=lambda: 0.0,
            reboot=self._reboot,
        )
        self.context = Context(means)
        self.boot_work, self.install_work = BootWork(self.context), InstallWork(self.context)

    async def _reboot(self, _alive: Callable[[], None]) -> None:
        self.host.reboots += 1

    def run(self, release: Release) -> None:
        """Do what the agent does from its start to the moment at which it wants a reboot, if there is any to want.

        Raises:
            UpdateError: what the agent would report.
        """
        asyncio.run(self._run(release))

    def retry(self, release: Release) -> None:
        """Do it again in the same run, as the agent does at the next offer.

        Raises:
            UpdateError: what the agent would report.
        """
        asyncio.run(self._update(release) if self.context.view.boot_confirmed else self._run(release))

    async def _run(self, release: Release) -> None:
        event = self.boot_work.recall()
        try:
            if await self._left(event):
                return
        except UpdateError as error:
            self.context.note_error(error)  # as the loop does, and the host stays up
            return
        done = self.context.known()[0].version == NEW or NEW in self.context.memory.failed_versions
        if event is Event.SLOT_ARMED or done:
            return
        try:
            await self._update(release)
        except UpdateError as error:
            self.context.note_error(error)  # as the loop does
            raise

    async def _left(self, event: Event) -> bool:
        """Judge the boot if nobody has; tell whether it was bad and a reboot was asked for."""
        if event is Event.BOOT_UNJUDGED:
            (event,) = await self.boot_work.judge_health()
        if event is Event.LOST_TRIAL:
            await self.boot_work.give_up()
        if event in (Event.LOST_TRIAL, Event.UNHEALTHY_TRIAL):
            await self.boot_work.fall_back()
            return True
        return False

    async def _update(self, release: Release) -> None:
        name = release.payload.name
        offer = Offer(NEW, (name,), name, release.payload.stat().st_size, release.sha256)
        file, folder = os.open(release.payload, os.O_RDONLY), os.open(release.payload.parent, os.O_RDONLY)
        try:
            given = given_file(file, folder, name)
        finally:
            os.close(file)
            os.close(folder)
        await self.install_work.install(offer, given)
        await self.install_work.arm()


@contextmanager
def quick_folder(name: str) -> Iterator[Path]:
    """Make a folder in memory where there is any: what a cut leaves is computed, nothing here has to last."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@contextmanager
def small_pieces() -> Iterator[None]:
    """Let a delta of a small image have many operations."""
    with ExitStack() as stack:
        for name in ("GROUP_BLOCKS", "FRESH_BLOCKS", "COPY_BLOCKS"):
            stack.enter_context(patch.object(delta_plan, name, 2))
        yield


@contextmanager
def small_steps(buffer: int) -> Iterator[None]:
    """Let the engine write and save in steps that are small enough for a small slot to have many; `buffer` in bytes."""
    with (
        patch.object(crew, "BUFFER_BYTES", buffer),
        patch("updated.install.hash_partition.PIECE", BLOCK),
        patch("updated.install.carry.BATCH_BYTES", buffer + BLOCK),
        patch.object(crew, "IN_FLIGHT_BYTES", 2 * buffer + 2 * BLOCK),
        patch("updated.install.checkpoint.Journal.__init__.__kwdefaults__", {"every_bytes": CHECKPOINT_BYTES}),
    ):
        yield
