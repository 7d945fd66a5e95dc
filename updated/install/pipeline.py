"""The install, step by step, in the one order that is safe.

1. Read the metadata; verify them (version 2); check the release's identity. Nothing has been written.
2. Open the target, with every refusal. Nothing has been written.
3. Un-mark the target: from here on only the running slot can boot.
4. Carry the operations out, each checked against its hash first, decoders in parallel, memory bounded.
5. Check size, whole hash and payload signature (for version 1 the first moment of trust).
6. Flush, read the partition back from the medium, compare with the signed hash; rename files into place.

It doesn't arm the slot. Whatever fails after step 3 leaves a slot that can't boot.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

from updated.errors import ErrorCode, RefusedError
from updated.install.fetch import Source
from updated.install.files import FileTarget
from updated.install.operations import Readable, Writable, carry_out
from updated.install.stream import PayloadReader, check_end, read_metadata
from updated.install.target import Target, open_running, open_target
from updated.payload.manifest import FROM_SOURCE, Identity, Image, Manifest, Operation, Partition
from updated.payload.trust import Keyring, TrustPolicy, check_identity
from updated.slots.boot import BootControl
from updated.slots.layout import HostPaths, Slot

WORKERS = 2
IN_FLIGHT = 8  # operations handed to the workers and not done: bounds memory, keeps both busy
READ_BACK_PIECE = 4 * 1024 * 1024
SLOT_PARTITION = "root"  # the partition that goes into the slot; a payload with one partition may call it otherwise

Phase = Literal["downloading", "verifying", "finalizing"]


@dataclass(frozen=True, slots=True)
class InstallRequest:
    """What is to be believed; the two offer fields are hints of an unsigned answer, checked all the same."""

    keyring: Keyring
    policy: TrustPolicy
    now: datetime
    offer_sha256: bytes | None = None
    offer_size: int | None = None
    offer_version: str = ""
    file_targets: Mapping[str, Path] = field(
        default_factory=dict
    )  # where `kernel` goes; other files' bytes are skipped


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an install is; bytes of the payload, or read back in the phase `verifying`."""

    phase: Phase
    bytes_done: int
    bytes_total: int
    bytes_reused: int = 0


@dataclass(frozen=True, slots=True)
class Installed:
    """A slot whose content is proven."""

    identity: Identity | None
    version: str
    slot: Slot
    partition_sha256: bytes
    bytes_done: int
    bytes_reused: int
    key: str  # the name of the key that verified it


@dataclass(slots=True)
class _Step:
    """What the steps of one install share."""

    request: InstallRequest
    reader: PayloadReader
    observe: Callable[[Progress], None]
    cancelled: threading.Event

    def downloaded(self) -> None:
        done = self.reader.position
        self.observe(Progress("downloading", done, max(self.request.offer_size or 0, done)))


def install(
    request: InstallRequest,
    *,
    source: Source,
    boot: BootControl,
    host: HostPaths,
    observe: Callable[[Progress], None],
    cancelled: threading.Event,
) -> Installed:
    """Install a payload into the slot that doesn't run; blocks, so call it in a thread.

    Args:
        request: keys, policy, the offer's hints, places for files.
        source: the payload's bytes.
        boot: the boot loader's data.
        host: where the kernel tells what runs and is mounted.
        observe: told how far it is, from this thread.
        cancelled: set it to end the install at its next look.

    Raises:
        UpdateError: why not. Before step 3 nothing has changed; after it the slot can't boot.
    """
    reader = PayloadReader(source.read_from(0), cancelled)
    step = _Step(request, reader, observe, cancelled)
    _header, manifest = read_metadata(
        reader, request.keyring, allow_unsigned_metadata=request.policy.allow_unsigned_metadata
    )
    check_identity(manifest.identity, request.policy, request.now)
    root = _slot_partition(manifest, request.file_targets)
    booted = boot.booted()
    slot = next(slot for slot in boot.slots() if slot.partuuid != booted.partuuid)
    with ExitStack() as stack:
        target = stack.enter_context(open_target(boot, slot, needed=_size(root.new), host=host))
        running = _open_source(manifest, root, boot, stack)
        boot.unmark(slot)
        if manifest.in_place and running is not None and root.old is not None:
            _copy(running, target, root.old.size)
        files = _open_files(manifest, request.file_targets, stack)
        _carry_out_all(manifest, {root.name: target, **files}, running, step)
        key = check_end(reader, manifest, request.keyring, request.offer_sha256)
        _check_partition(target, root.new, step)
        for file in files.values():
            file.check()
        for file in files.values():
            file.commit()
    version = manifest.identity.version if manifest.identity else request.offer_version
    return Installed(manifest.identity, version, slot, _image(root.new).sha256, reader.position, 0, key)


def _slot_partition(manifest: Manifest, file_targets: Mapping[str, Path]) -> Partition:
    """Return the partition that goes into the slot; every other one must have a place or be skippable."""
    partitions = [part for part in manifest.partitions if not part.is_file]
    named = [part for part in partitions if part.name == SLOT_PARTITION] or partitions[:1]
    others = [part.name for part in partitions if part not in named and part.name not in file_targets]
    if not named or others:
        raise RefusedError(
            ErrorCode.PARTITION_UNKNOWN,
            f"the payload has partitions that this host has no place for: {', '.join(others) or 'none of its own'}",
            hint="Offer a payload for this host's layout, or configure where the others go.",
        )
    return named[0]


def _image(image: Image | None) -> Image:
    if image is None:
        raise AssertionError("parse_manifest refuses partitions without an image")
    return image


def _size(image: Image | None) -> int:
    return _image(image).size


def _open_source(manifest: Manifest, root: Partition, boot: BootControl, stack: ExitStack) -> Target | None:
    """Open the running slot when operations read it, and check that it is the image that the delta was made from."""
    reads = manifest.in_place or any(op.type in FROM_SOURCE for op in root.operations)
    if not reads:
        return None
    if manifest.in_place and root.old is None:
        raise RefusedError(
            ErrorCode.NEW_PARTITION_INFO,
            "the delta doesn't say which image it was made from",
            hint="Offer a full payload.",
        )
    running = stack.enter_context(open_running(boot))
    if root.old is not None and _hash(running, root.old.size) != root.old.sha256:
        raise RefusedError(
            ErrorCode.SOURCE_MISMATCH,
            "this delta is for another old image than the one that runs here",
            hint="Offer a full payload, or the delta for the version that runs here.",
        )
    return running


def _hash(target: Target, size: int) -> bytes:
    running = sha256()
    for at in range(0, size, READ_BACK_PIECE):
        running.update(target.read(at, min(READ_BACK_PIECE, size - at)))
    return running.digest()


def _copy(running: Target, target: Target, size: int) -> None:
    """Copy the old image into the target, for a delta that changes it in place."""
    for at in range(0, size, READ_BACK_PIECE):
        target.write(at, running.read(at, min(READ_BACK_PIECE, size - at)))


def _open_files(manifest: Manifest, places: Mapping[str, Path], stack: ExitStack) -> dict[str, FileTarget]:
    return {
        part.name: stack.enter_context(FileTarget(places[part.name], _image(part.new)))
        for part in manifest.partitions
        if part.name in places and not part.skipped
    }


def _carry_out_all(manifest: Manifest, targets: Mapping[str, Writable], running: Readable | None, step: _Step) -> None:
    """Fetch, check, decode and write everything, in order of the payload."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="install") as pool:
        under_way: deque[Future[None]] = deque()
        try:
            for part in manifest.partitions:
                target = targets.get(part.name)
                for op in part.operations:
                    data = step.reader.take(op.data_length)
                    step.downloaded()
                    if target is not None:
                        _submit(pool, under_way, op, data, (target, running, manifest))
            while under_way:
                under_way.popleft().result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # the first error counts; the rest is not carried out
            raise


def _submit(
    pool: ThreadPoolExecutor,
    under_way: deque[Future[None]],
    op: Operation,
    data: bytes | memoryview,
    where: tuple[Writable, Readable | None, Manifest],
) -> None:
    """Hand an operation to the workers; in place, where each may read what the last one wrote, one at a time."""
    target, running, manifest = where
    under_way.append(pool.submit(carry_out, op, data, target=target, running=running, block_size=manifest.block_size))
    allowed = 0 if manifest.in_place else IN_FLIGHT
    while len(under_way) > allowed:
        under_way.popleft().result()


def _check_partition(target: Target, image: Image | None, step: _Step) -> None:
    """Flush, then read back from the medium and compare with the signed hash."""
    wanted = _image(image)
    step.observe(Progress("verifying", 0, wanted.size))
    target.flush()
    target.drop_cache()
    running = sha256()
    for at in range(0, wanted.size, READ_BACK_PIECE):
        length = min(READ_BACK_PIECE, wanted.size - at)
        running.update(target.read(at, length))
        step.observe(Progress("verifying", at + length, wanted.size))
    if running.digest() != wanted.sha256:
        raise RefusedError(
            ErrorCode.PARTITION_HASH_MISMATCH,
            f"what {target.name} holds is not what was signed",
            hint="If the payload installs elsewhere, this medium is failing: see `dmesg` and `smartctl`.",
        )
