"""The install, step by step, in the one order that is safe.

1. Read the metadata; verify them (version 2); check the release's identity. Nothing has been written.
2. Open the target, with every refusal; look for what the host has already. Nothing has been written.
3. Un-mark the target: from here on only the running slot can boot.
4. Carry the operations out, each checked against its hash first, decoders in parallel, memory bounded.
5. Where the whole payload came by: check size, hash and signature (for version 1 the first moment of trust).
6. Flush, read the partition back from the medium, compare with the signed hash; rename files into place.

It doesn't arm the slot. Whatever fails after step 3 leaves a slot that can't boot.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from updated.common.log import get_logger
from updated.errors import ErrorCode, RefusedError, RemoteError
from updated.install.carry import Carrier, Meter, Progress, Todo, fetch_spans
from updated.install.checkpoint import Checkpoint, Journal
from updated.install.crew import Crew
from updated.install.fetch import Source
from updated.install.files import FileTarget
from updated.install.medium import Target
from updated.install.packages import PackagePlan, fetch_packages, select_packages
from updated.install.plan import Plan, plan_rest, plan_reuse, plan_whole
from updated.install.ranges import Span
from updated.install.readback import check_slot
from updated.install.reuse import Finder
from updated.install.stream import (
    Metadata,
    PayloadReader,
    WholeReader,
    believe,
    check_cancelled,
    fetch_file,
    fetch_metadata,
)
from updated.install.target import open_running, open_target
from updated.payload.index import KIND, chunk_operations, index_size, parse_index
from updated.payload.manifest import FROM_SOURCE, Identity, Image, Manifest, Partition
from updated.payload.trust import Keyring, TrustPolicy, check_identity
from updated.slots.boot import BootControl
from updated.slots.layout import HostPaths, Slot

__all__ = ["InstallRequest", "Installed", "Progress", "install"]

COPY_PIECE = 4 * 1024 * 1024
SLOT_PARTITION = "root"  # the partition that goes into the slot; a payload with one partition may call it otherwise
UNTRUE = (ErrorCode.PARTITION_HASH_MISMATCH, ErrorCode.OPERATION_HASH_MISMATCH)  # what wrong leftovers come out as

log = get_logger("install")


@dataclass(frozen=True, slots=True)
class InstallRequest:
    """What is to be believed; the offer fields are hints of an unsigned answer, checked all the same."""

    keyring: Keyring
    policy: TrustPolicy
    now: datetime
    offer_sha256: bytes | None = None
    offer_size: int | None = None
    offer_version: str = ""
    file_targets: Mapping[str, Path] = field(
        default_factory=dict
    )  # where `kernel` goes; other files' bytes are skipped
    packages: PackagePlan | None = None  # how the release's other files are reached; None: not at all, nor is its index
    journal: Journal | None = None  # None: an install that was interrupted begins anew


@dataclass(frozen=True, slots=True)
class Installed:
    """A slot whose content is proven; `bytes_done` were fetched, `bytes_reused` need not be."""

    identity: Identity | None
    version: str
    slot: Slot
    partition_sha256: bytes
    bytes_done: int
    bytes_reused: int
    key: str  # the name of the key that verified it


@dataclass(frozen=True, slots=True)
class _Means:
    """What an install works with."""

    source: Source
    boot: BootControl
    host: HostPaths
    observe: Callable[[Progress], None]
    cancelled: threading.Event


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

    What is on the host already is used where the payload allows it. Should the result not be what was signed, the whole
    payload is fetched instead, once.

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
    means = _Means(source, boot, host, observe, cancelled)
    thrifty = _Install(request, means, thrifty=True)
    try:
        return thrifty.run()
    except RefusedError as error:
        if not thrifty.leaned or error.code not in UNTRUE:
            raise
        log.warning("reuse-failed", code=error.name, message=error.message, now="the whole payload is fetched")
        if request.journal is not None:
            request.journal.clear()
        return _Install(request, means, thrifty=False).run()


@dataclass(frozen=True, slots=True)
class _Work:
    """What is installed where."""

    metadata: Metadata
    root: Partition
    target: Target
    running: Target
    slot: Slot
    meter: Meter

    @property
    def manifest(self) -> Manifest:
        return self.metadata.manifest


class _Install:
    """One try."""

    def __init__(self, request: InstallRequest, means: _Means, *, thrifty: bool) -> None:
        self._request, self._means, self._thrifty = request, means, thrifty
        self.leaned = False  # on anything but what the source sends now
        self._indexed = False  # whether there is an index, which tells what is in place better than a checkpoint can

    def run(self) -> Installed:
        """Take the steps.

        Raises:
            UpdateError: why not.
        """
        request, boot = self._request, self._means.boot
        metadata = self._metadata()
        manifest = metadata.manifest
        check_identity(manifest.identity, request.policy, request.now)
        metadata.check_size(request.offer_size)
        root = _slot_partition(manifest, request.file_targets)
        packages = select_packages(manifest.packages, request.packages)
        image = _image(root.new)
        booted = boot.booted()
        slot = next(slot for slot in boot.slots() if slot.partuuid != booted.partuuid)
        with ExitStack() as stack:
            target = stack.enter_context(open_target(boot, slot, needed=image.size, host=self._means.host))
            target.check_space(image.size)
            running = stack.enter_context(open_running(boot))
            _check_source(manifest, root, running)
            total = metadata.payload_size + sum(package.size for package in packages)
            work = _Work(metadata, root, target, running, slot, Meter("downloading", total, self._means.observe))
            plan = self._plan(work)
            files = _open_files(manifest, request.file_targets, stack)
            boot.unmark(slot)
            if manifest.in_place and root.old is not None:
                _copy(running, target, root.old.size)
            key = self._carry_out(work, plan, files)
            fetched = fetch_packages(
                packages, request.packages, request.keyring, cancelled=self._means.cancelled, observe=work.meter.add
            )
            staged = stack.enter_context(fetched)
            check_slot(target, image, Meter("verifying", image.size, self._means.observe))
            for file in files.values():
                file.check()
            for file in files.values():
                file.commit()
            staged.commit()
        version = manifest.identity.version if manifest.identity else request.offer_version
        return Installed(manifest.identity, version, slot, image.sha256, work.meter.done, work.meter.reused, key)

    def _metadata(self) -> Metadata:
        """Take the metadata from the journal, if they are this offer's, or from the source."""
        request, journal = self._request, self._request.journal
        raw = journal.metadata_of(self._release()) if journal is not None and self._thrifty else None
        self.leaned = raw is not None
        if raw is None:
            raw = fetch_metadata(self._means.source, self._means.cancelled)
        return believe(raw, request.keyring, allow_unsigned_metadata=request.policy.allow_unsigned_metadata)

    def _plan(self, work: _Work) -> Plan:
        """Decide what has to be fetched; begin the journal anew unless it is this install's."""
        metadata, journal = work.metadata, self._request.journal
        if metadata.key is None or not self._thrifty:  # unsigned metadata: everything must come by and be hashed
            return plan_whole(work.manifest)
        here = Checkpoint(self._release(), metadata.digest.hex(), work.slot.partuuid)
        found = journal.read() if journal is not None else None
        resumed = found if found is not None and found.is_of(here) else None
        raw = self._index(metadata, work.root, resumed is not None)
        self._indexed = raw is not None
        if journal is not None and resumed is None:
            journal.begin(here, metadata.raw, raw)
        plan = self._plan_reuse(work, raw, resumed is not None) if raw else None
        if plan is None and resumed is not None and resumed.operations:
            plan = plan_rest(work.manifest, work.root, resumed.operations)
        self.leaned = self.leaned or plan is not None
        return plan or plan_whole(work.manifest)

    def _index(self, metadata: Metadata, root: Partition, kept: bool) -> bytes | None:
        """Return the release's index, kept from before or fetched; None when there is none to be had."""
        packages, journal = self._request.packages, self._request.journal
        package = next((package for package in metadata.manifest.packages if package.kind == KIND), None)
        if package is None or package.size != index_size(root):
            return None
        raw = journal.index_of(metadata.digest.hex(), package.size) if kept and journal is not None else None
        if raw is None and packages is not None:
            try:
                raw = fetch_file(packages.open_source(package.name, package.size), package.size, self._means.cancelled)
            except RemoteError as error:
                log.warning("no-index", code=error.name, message=error.message, now="the whole payload is fetched")
        if raw is not None and sha256(raw).digest() != package.sha256:
            log.warning("no-index", message="it is not what was signed", now="the whole payload is fetched")
            return None
        return raw

    def _plan_reuse(self, work: _Work, raw: bytes, resumed: bool) -> Plan | None:
        """Look for the new image's blocks on this host; None when nothing of use is found."""
        block_size = work.manifest.block_size
        index = parse_index(raw, work.root, block_size)
        finder = Finder(index, tuple(chunk_operations(work.root)), block_size)
        if resumed:
            finder.keep(work.target, going_on=lambda: self._go_on(work.meter))
        for seed in (work.running, work.target):
            finder.scan(seed, going_on=lambda: self._go_on(work.meter))
        plan = plan_reuse(work.manifest, work.root, finder)
        useful = plan.settled_bytes or any(todo.runs for todo in plan.todos)
        return plan if useful else None

    def _go_on(self, meter: Meter) -> None:
        check_cancelled(self._means.cancelled)
        meter.tell()

    def _carry_out(self, work: _Work, plan: Plan, files: Mapping[str, FileTarget]) -> str:
        """Fetch, check, decode and write everything; return the name of the key that signed it."""
        metadata, meter, source, cancelled = work.metadata, work.meter, self._means.source, self._means.cancelled
        meter.add(metadata.data_start)
        meter.reuse(plan.settled_bytes)
        with Crew(work.target, one_by_one=work.manifest.in_place) as crew:
            carrier = Carrier(work.manifest, work.root.name, crew, files, work.running, late=work.target)
            if plan.whole:
                reader = WholeReader(source.read([Span(metadata.data_start)]), cancelled, metadata)
                carrier.carry(plan.todos, reader, meter, self._saver(work, crew, 0))
                key = reader.check_end(self._request.keyring, self._request.offer_sha256)
            else:
                key = self._carry_out_parts(work, plan, carrier)
        if plan.whole:
            meter.add(metadata.manifest.signatures_size)
        else:
            meter.reuse(metadata.manifest.signatures_size)
        return key

    def _carry_out_parts(self, work: _Work, plan: Plan, carrier: Carrier) -> str:
        """Fetch what is lacking; then what came out differently when it was put together."""
        todos: Sequence[Todo] = [todo for todo in plan.todos if todo.target in (work.root.name, *carrier.files)]
        save = self._saver(work, carrier.crew, plan.settled)
        while todos:
            spans = fetch_spans(todos, work.metadata)
            pieces = self._means.source.read(spans) if spans else iter(())
            carrier.carry(todos, PayloadReader(pieces, self._means.cancelled), work.meter, save)
            todos = carrier.take_missed(work.meter)
        if work.metadata.key is None:
            raise AssertionError("only signed metadata let parts be left out")
        return work.metadata.key

    def _saver(self, work: _Work, crew: Crew, settled: int) -> Callable[[], None]:
        """Return what writes a checkpoint now and then, after a flush; with an index there is no need for any."""
        journal = self._request.journal
        if journal is None or work.metadata.key is None or self._indexed:
            return lambda: None
        at = Checkpoint(self._release(), work.metadata.digest.hex(), work.slot.partuuid, settled)
        return _Saver(journal, at, crew, work.target)

    def _release(self) -> str:
        return self._request.offer_sha256.hex() if self._request.offer_sha256 else ""


class _Saver:
    """Writes a checkpoint whenever enough more is done."""

    def __init__(self, journal: Journal, start: Checkpoint, crew: Crew, target: Target) -> None:
        self._journal, self._at, self._crew, self._target = journal, start, crew, target
        self._first, self._saved_bytes = start.operations, 0

    def __call__(self) -> None:
        """Look whether it is time."""
        if self._crew.settled_bytes - self._saved_bytes < self._journal.every_bytes:
            return
        self._saved_bytes, settled = self._crew.settled_bytes, self._crew.settled
        self._target.flush()  # before the checkpoint: it claims nothing that isn't durable
        self._at = dataclasses.replace(self._at, operations=self._first + settled)
        self._journal.write(self._at)


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


def _check_source(manifest: Manifest, root: Partition, running: Target) -> None:
    """See that the running slot is the image that a delta was made from."""
    if not manifest.in_place and not any(op.type in FROM_SOURCE for op in root.operations):
        return
    if manifest.in_place and root.old is None:
        raise RefusedError(
            ErrorCode.NEW_PARTITION_INFO,
            "the delta doesn't say which image it was made from",
            hint="Offer a full payload.",
        )
    if root.old is not None and (root.old.size > running.size or _hash(running, root.old.size) != root.old.sha256):
        raise RefusedError(
            ErrorCode.SOURCE_MISMATCH,
            "this delta is for another old image than the one that runs here",
            hint="Offer a full payload, or the delta for the version that runs here.",
        )


def _hash(target: Target, size: int) -> bytes:
    running = sha256()
    for at in range(0, size, COPY_PIECE):
        running.update(target.read(at, min(COPY_PIECE, size - at)))
    return running.digest()


def _copy(running: Target, target: Target, size: int) -> None:
    """Copy the old image into the target, for a delta that changes it in place."""
    for at in range(0, size, COPY_PIECE):
        target.write(at, running.read(at, min(COPY_PIECE, size - at)))


def _open_files(manifest: Manifest, places: Mapping[str, Path], stack: ExitStack) -> dict[str, FileTarget]:
    return {
        part.name: stack.enter_context(FileTarget(places[part.name], _image(part.new)))
        for part in manifest.partitions
        if part.name in places and not part.skipped
    }
