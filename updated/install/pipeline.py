"""The install, step by step, in the one order that is safe.

1. Read the metadata; verify them (version 2); check the release's identity. Nothing has been written.
2. Open the slot's partitions and names beside its boot files, with every refusal. Nothing has been changed.
3. Un-mark the target: from here on only the running slot can boot. Remove its stale boot files.
4. Carry the operations out, each checked against its hash first, decoders in parallel, memory bounded.
5. Where the whole payload came by: check size, hash and signature (for version 1 the first moment of trust).
6. Flush, read each part back from its medium, compare with the signed hashes; rename files into place.

It doesn't arm the slot. Whatever fails after step 3 leaves a slot that can't boot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from updated.common.log import get_logger
from updated.errors import ErrorCode, LocalError, RefusedError, Retry
from updated.install.ahead import Line, fetched_ahead
from updated.install.carry import Carrier, Meter, Progress, fetch_spans
from updated.install.checkpoint import Journal
from updated.install.crew import Crew
from updated.install.fetch import Source
from updated.install.files import Beside
from updated.install.kept import Keeper
from updated.install.operations import copy
from updated.install.packages import PackagePlan, StagedPackages, fetch_packages, prepare_packages, select_packages
from updated.install.plan import Plan
from updated.install.planner import Planner, Work
from updated.install.preflight import check_source, image_of
from updated.install.readback import ReadBack, settled_ends
from updated.install.slot_parts import BesideRoot, FilePlaces, check_places, open_files, open_tree
from updated.install.stream import PIECE, Metadata, PayloadReader, WholeReader, believe
from updated.install.target import open_running, open_target
from updated.install.todo import Todos
from updated.payload.framing import V1
from updated.payload.manifest import Identity, Package
from updated.payload.slot_set import SlotSet, slot_set
from updated.payload.trust import Keyring, TrustPolicy, check_identity
from updated.slots.boot import BootControl
from updated.slots.layout import HostPaths, Slot

__all__ = ["InstallRequest", "Installed", "Progress", "install"]

UNTRUE = (  # what wrong leftovers come out as
    ErrorCode.PARTITION_HASH_MISMATCH,
    ErrorCode.OPERATION_HASH_MISMATCH,
    ErrorCode.PAYLOAD_HASH_MISMATCH,
    ErrorCode.SIGNATURE_MISMATCH,
    ErrorCode.SIGNATURE_MISSING,
)

OF_THIS_HOST = (ErrorCode.TARGET_IS_RUNNING, ErrorCode.TARGET_MOUNTED, ErrorCode.TARGET_BUSY)  # whatever is offered

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
    file_targets: Mapping[str, Path] = field(default_factory=dict)  # where `kernel`, `initrd` and `uki` go
    file_sources: Mapping[str, Path] = field(default_factory=dict)  # the running slot's, for files that come as deltas
    skip_boot_files: bool = False  # leave them out
    packages: PackagePlan | None = None  # how the release's other files are reached; None: not at all, nor is its index
    journal: Journal | None = None  # None: nothing is kept, and version 1 is written as it comes


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
    files: frozenset[str] = frozenset()  # the names of the boot files that were put in place
    root_hash: str | None = None  # of the slot's verity tree, lower-case hex


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


class _Install:
    """One try."""

    def __init__(self, request: InstallRequest, means: _Means, *, thrifty: bool) -> None:
        self._request, self._means = request, means
        release = request.offer_sha256.hex() if request.offer_sha256 else ""
        self._planner = Planner(
            request.journal, request.packages, release=release, cancelled=means.cancelled, thrifty=thrifty
        )
        self._fetched = 0  # bytes of data that this try had to fetch before it could believe anything
        self._proven = False  # whether a trusted key made what the install goes by

    @property
    def leaned(self) -> bool:
        """Whether this try rests on anything but what the source sends now."""
        return self._planner.leaned

    def run(self) -> Installed:
        """Take the steps.

        What is refused before a key has proven anything may be a mirror's doing: another one may have a good copy. So
        may a lack of space be, for how much is needed is what the manifest says.

        Raises:
            UpdateError: why not.
        """
        try:
            return self._run()
        except (RefusedError, LocalError) as error:
            by_the_copy = isinstance(error, RefusedError) or error.code is ErrorCode.NO_SPACE
            if by_the_copy and not self._proven and error.code not in OF_THIS_HOST:
                error.retry = Retry.OTHER_SOURCE
            raise

    def _run(self) -> Installed:
        request, boot = self._request, self._means.boot
        metadata, parts = self._believe()
        manifest, root = metadata.manifest, parts.root
        packages = select_packages(manifest.packages, request.packages)
        image = image_of(root.new)
        written = image.blocks(manifest.block_size) * manifest.block_size  # its last block is padded
        booted = boot.booted()
        slot = next(slot for slot in boot.slots() if slot.partuuid != booted.partuuid)
        places = FilePlaces(
            request.file_targets, request.file_sources, skip=request.skip_boot_files, freed=boot.stale_of(slot)
        )
        check_places(parts, places, has_hash_partition=boot.verity_of(slot) is not None)
        with ExitStack() as stack:
            target = stack.enter_context(open_target(boot, slot, needed=written, host=self._means.host))
            target.check_space(image.size)
            running = stack.enter_context(open_running(boot))
            check_source(manifest, root, running)
            tree = open_tree(parts, boot, (slot, target), self._means.host, stack)
            beside = BesideRoot(tree | open_files(manifest, parts, places, stack), places, manifest.block_size)
            total = metadata.payload_size + sum(package.size for package in packages)
            work = Work(
                metadata, root, target, running, slot.partuuid, Meter("downloading", total, self._means.observe)
            )
            plan = self._planner.plan(work)
            keeper = stack.enter_context(self._planner.keeper(work))
            if metadata.key is None:
                self._believe_whole(work, keeper, slot)
            prepare_packages(packages, request.packages)
            boot.unmark(slot)
            beside.begin()
            if manifest.changes_in_place(root) and root.old is not None:
                copy(running, target, root.old.size)
            read_back = stack.enter_context(ReadBack(target, image))
            key = self._carry_out(work, plan, beside.parts, read_back, keeper)
            self._proven = True
            staged = stack.enter_context(self._fetch(packages, work.meter))
            read_back.finish(Meter("verifying", image.size, self._means.observe))
            beside.check()
            beside.commit()
            staged.commit()
        return Installed(
            identity=manifest.identity,
            version=manifest.identity.version if manifest.identity else request.offer_version,
            slot=slot,
            partition_sha256=image.sha256,
            bytes_done=work.meter.done,
            bytes_reused=work.meter.reused,
            key=key,
            files=beside.files,
            root_hash=parts.root_hash,
        )

    def _believe_whole(self, work: Work, keeper: Keeper, slot: Slot) -> None:
        """Fetch a payload that only its end proves, and believe it, before anything of it is decoded or written.

        Nobody has signed what it says until then: its operations may be made to take minutes, and writing them would
        cost the other slot's release. Without room to keep it, it is written as it comes into a slot that has nothing
        to lose, and refused where the slot has a release that proved itself.
        Whoever installs without a journal, as no agent does, has decided that for himself.

        Raises:
            RefusedError: what `WholeReader.check_end` raises.
            LocalError: NO_SPACE.
        """
        if not keeper.keeps:
            if slot.successful and self._request.journal is not None:
                raise LocalError(
                    ErrorCode.NO_SPACE,
                    f"{work.metadata.payload_size} bytes of a payload that only its end proves can't be kept until then"
                    f" ({keeper.lost}), and slot {slot.name} holds a release that would be lost if it turned out false",
                    hint="Free twice that space in state_dir, or publish the release as a payload of version 2.",
                )
            return
        meter = Meter("downloading", work.metadata.payload_size, self._means.observe)
        meter.expect_here(keeper.kept)
        source, cancelled = self._means.source, self._means.cancelled
        reader = WholeReader(keeper.read(source), cancelled, work.metadata, self._request.offer_sha256)
        data = work.metadata.payload_size - work.metadata.data_start - work.manifest.signatures_size
        for at in range(0, data, PIECE):
            size = min(PIECE, data - at)
            reader.take(size)
            meter.add(size)
        reader.check_end(self._request.keyring)
        self._proven = True
        self._fetched = meter.done

    def _believe(self) -> tuple[Metadata, SlotSet]:
        """Read the metadata; return them, and which of the payload's partitions make the slot."""
        request = self._request
        raw = self._planner.metadata(self._means.source)
        metadata = believe(raw, request.keyring, allow_unsigned_metadata=request.policy.allow_unsigned_metadata)
        self._proven = metadata.key is not None
        if metadata.header.major == V1 and not request.policy.allow_version_1:
            raise RefusedError(
                ErrorCode.VERSION_1_OFF,
                "the payload is of version 1, which only its last byte proves",
                hint="Publish it as version 2, which update-payload builds unless told, or set trust.allow_version_1.",
            )
        check_identity(metadata.manifest.identity, request.policy, request.now)
        metadata.check_size(request.offer_size)
        return metadata, slot_set(metadata.manifest)

    def _fetch(self, packages: Sequence[Package], meter: Meter) -> StagedPackages:
        request = self._request
        return fetch_packages(
            packages, request.packages, request.keyring, cancelled=self._means.cancelled, observe=meter.add
        )

    def _carry_out(
        self, work: Work, plan: Plan, files: Mapping[str, Beside], read_back: ReadBack, keeper: Keeper
    ) -> str:
        """Fetch, check, decode and write everything; return the name of the key that signed it."""
        metadata, meter, source, cancelled = work.metadata, work.meter, self._means.source, self._means.cancelled
        meter.add(metadata.data_start)
        meter.reuse(plan.settled_bytes)
        with Crew(work.target, one_by_one=work.manifest.changes_in_place(work.root)) as crew:
            carrier = Carrier(work.manifest, work.root.name, crew, files, work.running, work.target, plan.finder)
            if plan.whole:
                meter.expect_here(keeper.kept - self._fetched)
                reader = WholeReader(keeper.read(source), cancelled, metadata, self._request.offer_sha256)
                save = self._planner.saver(work, crew, 0)
                carrier.carry(plan.todos, reader, meter, _follower(carrier, plan.todos, read_back, save))
                key = reader.check_end(self._request.keyring)
            else:
                key = self._carry_out_parts(work, plan, carrier, read_back)
        if plan.whole:
            meter.add(metadata.manifest.signatures_size)
        else:
            meter.reuse(metadata.manifest.signatures_size)
        return key

    def _carry_out_parts(self, work: Work, plan: Plan, carrier: Carrier, read_back: ReadBack) -> str:
        """Fetch what is lacking; then what came out differently when it was put together."""
        todos = plan.todos.of((work.root.name, *carrier.files))
        save = self._planner.saver(work, carrier.crew, plan.settled)
        while todos:
            spans = fetch_spans(todos, work.metadata)
            with fetched_ahead(self._means.source.read(spans) if spans else iter(())) as line:
                reader = PayloadReader(iter(line), self._means.cancelled)
                follow = _follower(carrier, todos, read_back, save)
                carrier.carry(todos, reader, work.meter, follow, _has_come(reader, line))
            todos = carrier.take_missed(work.meter)
        if work.metadata.key is None:
            raise AssertionError("only signed metadata let parts be left out")
        return work.metadata.key


def _has_come(reader: PayloadReader, line: Line) -> Callable[[int], bool]:
    """Return what tells whether so many bytes can be read without a wait."""
    return lambda length: line.has(length - reader.left)


def _follower(
    carrier: Carrier, todos: Todos, read_back: ReadBack, save: Callable[[bool], None]
) -> Callable[[bool], None]:
    """Return what is called as these are done: it saves how far they are, and lets the reader follow."""
    end_after = settled_ends(todos, carrier.slot, carrier.manifest.block_size)
    crew, before, told = carrier.crew, carrier.crew.settled, -1

    def follow(last: bool) -> None:
        nonlocal told
        save(last)
        done = crew.settled - before
        if done != told and not carrier.missed:  # what came out differently is written once more
            told = done
            read_back.advance(end_after(done))

    return follow
