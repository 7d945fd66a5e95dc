"""A release's further files (OEM parts, system extensions): fetched, checked, and put in place all at once.

Only what the signed manifest lists is fetched, from where the payload comes from and from nowhere else. Everything is
written aside first; `commit` renames it, after the slot was proven and before it is armed. The directory is the target
slot's own, so that what the running release uses stays as it is.

A package that is a CrAU payload itself (Flatcar's `oem-*.gz`, `flatcar-*.gz`) must be signed too, and its partition is
what is installed, as NAME.raw, the name that systemd-sysext wants.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from updated.common.durable import read_bounded, sync_directory, write_atomic
from updated.errors import ErrorCode, LocalError, RefusedError, Retry
from updated.install.fetch import Source
from updated.install.files import NO_SPACE, FileTarget
from updated.install.operations import PIECE, carry_out
from updated.install.ranges import Span
from updated.install.stream import check_cancelled, open_payload
from updated.payload.framing import MAGIC
from updated.payload.manifest import FROM_SOURCE, IN_PLACE, Image, Manifest, Package, Partition
from updated.payload.parse import BESIDE, PACKAGE_NAME
from updated.payload.trust import Keyring

OWN_KINDS = frozenset({"index"})  # what the agent itself reads; every other kind is a file to install
MODE = 0o644
SETTING = "packages.dir"
RECORD = ".updated-packages"  # the names that were installed here, one a line
RECORD_LIMIT = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class PackagePlan:
    """Which packages this host takes, where they go, and how they are reached (a name and a size in bytes)."""

    open_source: Callable[[str, int], Source]
    directory: Path | None = None
    wanted: tuple[str, ...] = ("*",)  # names as shell patterns


def select_packages(packages: Iterable[Package], plan: PackagePlan | None) -> tuple[Package, ...]:
    """Return the packages that this host installs; call it before anything is written.

    Raises:
        RefusedError: PACKAGE_NO_PLACE; there are some, and no directory is configured. To leave them out in silence
            might leave a release without what makes it work on this machine.
    """
    chosen = tuple(
        package
        for package in packages
        if package.kind not in OWN_KINDS
        and any(fnmatchcase(package.name, pattern) for pattern in (plan.wanted if plan else ("*",)))
    )
    if chosen and (plan is None or plan.directory is None):
        raise RefusedError(
            ErrorCode.PACKAGE_NO_PLACE,
            f"the release comes with {', '.join(package.name for package in chosen)}, and there is no place for that",
            hint="Set packages.dir; or leave them out by packages.wanted, if this host does without.",
        )
    return chosen


@dataclass(slots=True)
class StagedPackages:
    """Files written and checked, none in place yet; leaving the context without `commit` removes them."""

    directory: Path | None
    files: dict[str, FileTarget] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, name: str, image: Image) -> FileTarget:
        """Begin a file of the directory.

        Raises:
            RefusedError: PACKAGE_MISMATCH; there is one of this name already.
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        if self.directory is None or name in self.files:
            raise _mismatch(f"two packages of the release would be installed as {name}")
        self.files[name] = self._stack.enter_context(
            FileTarget(self.directory / name, image, mode=MODE, setting=SETTING)
        )
        return self.files[name]

    def commit(self) -> None:
        """Rename every file into place, durably, and remove what an earlier release had installed there.

        Raises:
            LocalError: DOWNLOAD_WRITE or NO_SPACE.
        """
        if self.directory is None or not self.directory.is_dir():
            return  # and so there are no files either
        try:
            before = _read_record(self.directory)
            _write_record(self.directory, before | set(self.files))  # first: a cut leaves nothing that nobody knows
            for file in self.files.values():
                file.commit()
            for name in before - set(self.files):
                (self.directory / name).unlink(missing_ok=True)
            sync_directory(self.directory)
            _write_record(self.directory, set(self.files))
        except OSError as error:
            raise _unwritable(self.directory, error) from error


def fetch_packages(
    packages: Sequence[Package],
    plan: PackagePlan | None,
    keyring: Keyring,
    *,
    cancelled: threading.Event,
    observe: Callable[[int], None],
) -> StagedPackages:
    """Download, check and stage packages; blocks, so call it in a thread, once the manifest's signature is known.

    Args:
        packages: as `select_packages` returns them.
        plan: where from and where to.
        keyring: who may have signed a package that is a payload.
        cancelled: set it to end at the next piece.
        observe: told of each piece that came, in bytes.

    Raises:
        RefusedError: PACKAGE_MISMATCH, or what makes a package that is a payload unbelievable.
        RemoteError: what the source raises.
        LocalError: DOWNLOAD_WRITE, NO_SPACE, READ_BACK.
    """
    if plan is None:
        return StagedPackages(None)  # and so there are no packages: select_packages refuses them
    prepare_packages(packages, plan)
    staged = StagedPackages(plan.directory)
    try:
        for package in packages:
            file = _download(package, plan, staged, cancelled, observe)
            if file.read(0, min(len(MAGIC), package.size)) == MAGIC:
                _unpack(package, file, staged, keyring, cancelled)
    except BaseException:
        staged.__exit__(None, None, None)
        raise
    return staged


def prepare_packages(packages: Sequence[Package], plan: PackagePlan | None) -> None:
    """Make the directory if it is needed, remove what an install that was cut left there, look for room.

    Call it before the slot is touched, too: a host without room keeps the slot that it has.

    Raises:
        LocalError: DOWNLOAD_WRITE, NO_SPACE.
    """
    directory = plan.directory if plan is not None else None
    if directory is None:
        return
    try:
        if packages:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for left in directory.glob(f"*{BESIDE}"):
            left.unlink(missing_ok=True)
        room = os.statvfs(directory) if packages else None
    except OSError as error:
        raise _unwritable(directory, error) from error
    needed = sum(package.size for package in packages)
    if room is not None and needed > room.f_bavail * room.f_frsize:
        raise LocalError(
            ErrorCode.NO_SPACE,
            f"the release's packages need {needed} bytes, {directory} has {room.f_bavail * room.f_frsize}",
            hint=f"Free space there, or set {SETTING} to another file system.",
        )


def _download(
    package: Package,
    plan: PackagePlan,
    staged: StagedPackages,
    cancelled: threading.Event,
    observe: Callable[[int], None],
) -> FileTarget:
    file = staged.open(package.name, Image(package.size, package.sha256))
    digest, at = sha256(), 0
    for piece in plan.open_source(package.name, package.size).read((Span(0),)):
        check_cancelled(cancelled)
        if at + len(piece) > package.size:
            raise _mismatch(f"the package {package.name} is longer than the {package.size} bytes that were signed")
        file.write(at, piece)
        digest.update(piece)
        at += len(piece)
        observe(len(piece))
    if at < package.size or digest.digest() != package.sha256:
        raise _mismatch(f"the package {package.name} ({at} bytes) is not what was signed ({package.size} bytes)")
    file.check()
    return file


def _unpack(
    package: Package, file: FileTarget, staged: StagedPackages, keyring: Keyring, cancelled: threading.Event
) -> None:
    """Put the image in a payload into the payload's place."""
    metadata, reader = open_payload(
        _StagedFile(file, package.size), keyring, allow_unsigned_metadata=False, cancelled=cancelled
    )
    manifest = metadata.manifest
    partition = _only_partition(package, manifest)
    if partition.new is None:
        raise AssertionError("parse_manifest refuses partitions without an image")
    raw = staged.open(_raw_name(package.name), partition.new)
    for op in partition.operations:
        carry_out(op, reader.take(op.data_length), target=raw, running=None, block_size=manifest.block_size)
    reader.check_end(keyring)
    raw.check()
    del staged.files[package.name]  # the context still removes what was downloaded


@dataclass(frozen=True, slots=True)
class _StagedFile:
    """What was downloaded, as a source."""

    file: FileTarget
    size: int

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        """Yield the spans' bytes."""
        for span in spans:
            end = self.size if span.end is None else min(span.end, self.size)
            for at in range(span.begin, end, PIECE):
                yield memoryview(self.file.read(at, min(PIECE, end - at)))


def _only_partition(package: Package, manifest: Manifest) -> Partition:
    if len(manifest.partitions) != 1 or manifest.partitions[0].kinds & (FROM_SOURCE | IN_PLACE):
        raise RefusedError(
            ErrorCode.PARTITION_UNKNOWN,
            f"the package {package.name} is a payload of several partitions or a delta",
            hint="Build packages as full payloads of one image.",
        )
    return manifest.partitions[0]


def _raw_name(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem if dot and suffix in ('gz', 'payload') else name}.raw"


def _read_record(directory: Path) -> set[str]:
    """Return the names that we installed; a name that none of ours could have is not believed."""
    try:
        text = read_bounded(directory / RECORD, RECORD_LIMIT).decode("ascii", errors="replace")
    except FileNotFoundError:
        return set()
    except ValueError:  # far too long: nobody's record
        return set()
    return {name for name in text.splitlines() if PACKAGE_NAME.fullmatch(name)}


def _write_record(directory: Path, names: set[str]) -> None:
    write_atomic(directory / RECORD, "".join(f"{name}\n" for name in sorted(names)).encode(), MODE)


def _mismatch(what: str) -> RefusedError:
    return RefusedError(
        ErrorCode.PACKAGE_MISMATCH,
        what,
        hint="Look at the download server or mirror; publish the release's files as they were built.",
        retry=Retry.OTHER_SOURCE,
    )


def _unwritable(directory: Path, error: OSError) -> LocalError:
    return LocalError(
        ErrorCode.NO_SPACE if error.errno in NO_SPACE else ErrorCode.DOWNLOAD_WRITE,
        f"{directory} can't be used for packages: {error.strerror}",
        hint=f"Look at {SETTING} in the settings, and at free space there.",
    )
