"""Finds out what the host has already, and remembers an install under way: so that as little as can be is fetched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from updated.common.log import get_logger
from updated.errors import LocalError, RefusedError, RemoteError
from updated.install.carry import Meter
from updated.install.checkpoint import Checkpoint, Journal
from updated.install.crew import Crew
from updated.install.fetch import Source
from updated.install.kept import Keeper
from updated.install.medium import Target
from updated.install.packages import PackagePlan
from updated.install.plan import Plan, plan_rest, plan_reuse, plan_whole
from updated.install.ranges import Span
from updated.install.reuse import Finder
from updated.install.stream import Metadata, check_cancelled, fetch_file, fetch_metadata
from updated.payload.framing import HEADER_BYTES, parse_header
from updated.payload.index import KIND, Chunks, Index, find_chunks, parse_index
from updated.payload.manifest import Manifest, Partition

log = get_logger("install")


@dataclass(frozen=True, slots=True)
class Work:
    """What is installed where."""

    metadata: Metadata
    root: Partition  # what goes into the slot
    target: Target
    running: Target
    partuuid: str  # of the target
    meter: Meter

    @property
    def manifest(self) -> Manifest:
        """What the payload says of itself."""
        return self.metadata.manifest


@dataclass(frozen=True, slots=True)
class _Fetched:
    """An index that is what was signed, and what it tells about."""

    raw: bytes
    index: Index
    chunks: Chunks


class Planner:
    """Plans one try; `leaned` tells whether it rests on anything but what the source sends now."""

    def __init__(
        self,
        journal: Journal | None,
        packages: PackagePlan | None,
        *,
        release: str,
        cancelled: threading.Event,
        thrifty: bool,
    ) -> None:
        """Begin.

        Args:
            journal: of an install that was interrupted, perhaps.
            packages: how the index is reached.
            release: what the offer calls the payload: its SHA-256, or nothing.
            cancelled: ends the search.
            thrifty: false: fetch everything.
        """
        self._journal, self._packages, self._release = journal, packages, release
        self._cancelled, self._thrifty = cancelled, thrifty
        self.leaned = False
        self._indexed = False  # whether there is an index, which tells what is in place better than a checkpoint can

    def metadata(self, source: Source) -> bytes:
        """Take the metadata from the journal, if they are signed and the source has the same, or from the source.

        Unsigned ones are a mirror's word: kept, they would lead every later try astray, whichever mirror it asks. So
        would signed ones of another release that a lying answer once gave this offer's name: what is kept is known by
        its signature, of which the source is asked.

        Raises:
            UpdateError: they can't be had.
        """
        raw = self._journal.metadata_of(self._release) if self._journal is not None and self._thrifty else None
        raw = raw if raw is not None and _are_signed(raw) and _has_same(source, raw) else None
        self.leaned = raw is not None
        return fetch_metadata(source, self._cancelled) if raw is None else raw

    def plan(self, work: Work) -> Plan:
        """Decide what has to be fetched; begin the journal anew unless it is this install's.

        Raises:
            UpdateError: CANCELLED, STATE.
        """
        metadata, journal = work.metadata, self._journal
        if metadata.key is None or not self._thrifty:  # unsigned metadata: everything must come by and be hashed
            return plan_whole(work.manifest)
        found = journal.read() if journal is not None else None
        resumed = found if found is not None and found.is_of(self._checkpoint(work)) else None
        index = self._index(work, kept=resumed is not None)
        self._indexed = index is not None
        if journal is not None and resumed is None:
            journal.begin(self._checkpoint(work), metadata.raw, index.raw if index is not None else None)
        plan = self._plan_reuse(work, index, resumed=resumed is not None) if index is not None else None
        if plan is None and resumed is not None and resumed.operations:
            plan = plan_rest(work.manifest, work.root, resumed.operations)
        self.leaned = self.leaned or plan is not None
        return plan or plan_whole(work.manifest)

    def keeper(self, work: Work) -> Keeper:
        """Return what keeps a payload whose metadata aren't signed; of any other, operations are kept in the slot.

        Raises:
            LocalError: STATE.
        """
        metadata, journal = work.metadata, self._journal
        begin, end = metadata.data_start, metadata.payload_size
        at = self._checkpoint(work)
        if journal is None or metadata.key is not None:
            return Keeper(None, at, begin, end)
        found = journal.read()
        if found is None or not found.is_of(at):
            journal.begin(at, metadata.raw, None)
        else:
            at = replace(at, kept=found.kept)
        keeper = Keeper(journal, at, begin, end)
        self.leaned = self.leaned or keeper.kept > 0
        return keeper

    def saver(self, work: Work, crew: Crew, settled: int) -> Callable[[bool], None]:
        """Return what writes a checkpoint now and then, after a flush; with an index there is no need for any."""
        if self._journal is None or work.metadata.key is None or self._indexed:
            return lambda _last: None
        return _Saver(self._journal, self._checkpoint(work, settled), crew, work.target)

    def _checkpoint(self, work: Work, operations: int = 0) -> Checkpoint:
        return Checkpoint(self._release, work.metadata.digest.hex(), work.partuuid, operations)

    def _index(self, work: Work, *, kept: bool) -> _Fetched | None:
        """Return the release's index, kept from before or fetched; None when there is none to be had, or of no use."""
        package = next((package for package in work.manifest.packages if package.kind == KIND), None)
        if package is None or self._packages is None or work.manifest.changes_in_place(work.root):
            return None
        chunks, raw = find_chunks(work.root), None
        if package.size != chunks.index_size:
            return None
        if kept and self._journal is not None:
            raw = self._journal.index_of(work.metadata.digest.hex(), package.size)
        try:
            if raw is None:
                raw = fetch_file(self._packages.open_source(package.name, package.size), package.size, self._cancelled)
            if sha256(raw).digest() != package.sha256:
                log.warning("no-index", message="it is not what was signed", now="the whole payload is fetched")
                return None
            return _Fetched(raw, parse_index(raw, chunks, work.manifest.block_size), chunks)
        except (LocalError, RemoteError, RefusedError) as error:  # it only saves downloads: no reason to fail
            log.warning("no-index", code=error.name, message=error.message, now="the whole payload is fetched")
            return None

    def _plan_reuse(self, work: Work, fetched: _Fetched, *, resumed: bool) -> Plan | None:
        """Look for the new image's blocks on this host; None when nothing of use is found."""
        finder = Finder(fetched.index, fetched.chunks, work.manifest.block_size)

        def going_on() -> None:
            check_cancelled(self._cancelled)
            work.meter.tell()

        try:
            if resumed:
                finder.keep(work.target, going_on=going_on)
            for seed in (work.running, work.target):
                finder.scan(seed, going_on=going_on)
        except LocalError as error:  # a seed that can't be read is worth no failure: what was found so far counts
            log.warning("seed-unreadable", message=error.message)
        finder.settle()
        return plan_reuse(work.manifest, work.root, finder)


def _has_same(source: Source, metadata: bytes) -> bool:
    """Tell whether a source begins with these metadata: the header and the signature of metadata tell them apart.

    Raises:
        UpdateError: the source can't be read.
    """
    header = parse_header(metadata[:HEADER_BYTES])
    signature = Span(header.metadata_size, len(metadata))
    expected = metadata[:HEADER_BYTES] + metadata[signature.begin :]
    found, most = bytearray(), len(expected)
    for piece in source.read([Span(0, HEADER_BYTES), signature]):
        found += piece
        if len(found) > most or not expected.startswith(bytes(found)):
            return False
    return bytes(found) == expected


def _are_signed(metadata: bytes) -> bool:
    """Tell whether metadata come with a signature of their own, which is verified like that of any."""
    try:
        return parse_header(metadata[:HEADER_BYTES]).metadata_signature_size > 0
    except RefusedError:
        return False


class _Saver:
    """Writes a checkpoint whenever enough more is done."""

    def __init__(self, journal: Journal, start: Checkpoint, crew: Crew, target: Target) -> None:
        self._journal, self._at, self._crew, self._target = journal, start, crew, target
        self._first, self._saved_bytes = start.operations, 0

    def __call__(self, last: bool) -> None:
        """Look whether it is time; the last time it is, if there is anything new."""
        new = self._crew.settled_bytes - self._saved_bytes
        if new < (1 if last else self._journal.every_bytes):
            return
        self._saved_bytes, settled = self._crew.settled_bytes, self._crew.settled
        self._target.flush()  # before the checkpoint: it claims nothing that isn't durable
        self._at = replace(self._at, operations=self._first + settled)
        self._journal.write(self._at)
