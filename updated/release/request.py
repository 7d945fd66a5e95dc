"""What `update-payload build` is asked for, and everything about it that can be refused before any work.

Hosts are strict, so the builder is too: whatever they refuse for its form must not get as far as being published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from updated.errors import ErrorCode, LocalError
from updated.payload.framing import V1, V2
from updated.payload.limits import LIMITS
from updated.payload.parse import KERNEL, PACKAGE_NAME
from updated.payload.slot_set import BOOT_FILES, SET_NAMES
from updated.release.chunks import BLOCK, COMPRESSIONS
from updated.release.packages import PackageFile

V1_COMPRESSIONS = ("bz2", "none")
V1_PARTITION = "root"  # version 1 has no names; this is what ours reads it as
MOST_INDEX = 2**64 - 1  # the manifest's field
MOST_JOBS = 1024  # each holds some chunks
MOST_CHUNK_KIB = LIMITS.operation_bytes // 1024


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build."""

    image: Path
    product: str
    channel: str
    version: str
    rollback_index: int
    key: Path | tuple[Path, ...]  # several: each signs
    out: Path
    partition: str = V1_PARTITION
    kernel: Path | None = None
    initrd: Path | None = None  # with a kernel only
    uki: Path | None = None  # instead of both
    verity: Path | None = None  # the image's hash tree, made elsewhere
    make_verity: bool = False  # make it
    major: int = V2
    compression: str | None = None  # none given: zstd, for version 1 bz2
    chunk_kib: int | None = None  # none given: along files, about 64 or as the limits ask for
    not_after: int | None = None  # seconds since 1970, UTC
    jobs: int = 2
    packages: tuple[PackageFile, ...] = ()
    old: Path | None = None  # the image that runs on the hosts: a delta from it

    @property
    def payload(self) -> Path:
        """Return where the payload goes."""
        return self.out / f"{self.product}-{self.version}.payload"

    @property
    def boot_files(self) -> dict[str, Path]:
        """Return the files that the slot is booted with, by their partitions' names, in the payload's order."""
        given = zip(BOOT_FILES, (self.kernel, self.initrd, self.uki), strict=True)
        return {name: path for name, path in given if path is not None}


def check_request(request: BuildRequest) -> None:
    """See that hosts can take what is asked for.

    Raises:
        LocalError: USAGE.
    """
    for problem in _problems(request):
        raise LocalError(ErrorCode.USAGE, problem, hint="See `update-payload build --help`.")


def _problems(request: BuildRequest) -> Iterator[str]:
    yield from _problems_of_numbers(request)
    yield from _problems_of_names(request)
    yield from _problems_of_set(request)
    yield from _problems_of_files(request)


def _problems_of_numbers(request: BuildRequest) -> Iterator[str]:
    if request.major not in (V1, V2):
        yield f"there is no payload version {request.major}"
    compression = request.compression or ("bz2" if request.major == V1 else "zstd")
    if compression not in (V1_COMPRESSIONS if request.major == V1 else COMPRESSIONS):
        yield f"version {request.major} payloads have no {compression}"
    kib = request.chunk_kib
    if kib is not None and (not 0 < kib <= MOST_CHUNK_KIB or kib * 1024 % BLOCK):
        yield f"chunks of {kib} KiB are no whole blocks of {BLOCK} bytes, or more than {MOST_CHUNK_KIB} KiB"
    if not 0 <= request.rollback_index <= MOST_INDEX:
        yield f"the rollback index is a number from 0 to {MOST_INDEX}"
    if not 0 < request.jobs <= MOST_JOBS:
        yield f"there can be 1 to {MOST_JOBS} jobs"


def _problems_of_names(request: BuildRequest) -> Iterator[str]:
    name = f"{request.product}-{request.version}.payload"  # as it was asked for: a path's own name is but its last part
    if not PACKAGE_NAME.fullmatch(name) or not (request.product and request.version):
        yield "product and version are part of file names and URLs: use letters, digits and ._+~@=,- only"
    for what, text in (("channel", request.channel), ("partition", request.partition)):
        if not 0 < len(text) <= LIMITS.text_bytes or not text.isprintable():
            yield f"the {what} {text!r} is no name of 1 to {LIMITS.text_bytes} printable characters"
    if "/" in request.partition or request.partition in SET_NAMES:
        yield f"the partition can't be called {request.partition!r}"
    if request.major == V1 and request.partition != V1_PARTITION:
        yield f"version 1 payloads have no names of partitions: theirs is always {V1_PARTITION}"
    own = {request.payload.with_suffix(suffix).name for suffix in (".payload", ".index", ".release.json")}
    for package in request.packages:
        if package.path.name in own:
            yield f"a package can't be called {package.path.name}, for the build makes a file of this name"


def _problems_of_set(request: BuildRequest) -> Iterator[str]:
    """Yield what contradicts itself among the parts of one slot."""
    has_tree = request.make_verity or request.verity is not None
    if request.major == V1 and (has_tree or set(request.boot_files) - {KERNEL}):
        yield "version 1 payloads have no parts but the root and a kernel: leave --major out"
    if request.make_verity and request.verity is not None:
        yield "the verity tree is made here or elsewhere: give --verity or --make-verity"
    if request.uki is not None and (request.kernel is not None or request.initrd is not None):
        yield "a UKI has its kernel and initrd in it: give --uki, or --kernel and --initrd"
    if request.initrd is not None and request.kernel is None:
        yield "an initrd is booted with a kernel: give --kernel too"


def _problems_of_files(request: BuildRequest) -> Iterator[str]:
    boot_files = request.boot_files
    for file in (request.image, request.old, request.verity, *boot_files.values()):
        if file is not None and (not file.is_file() or not file.stat().st_size):
            yield f"{file} is no file, or empty"
    for file in boot_files.values():
        if file.is_file() and file.stat().st_size > LIMITS.file_bytes:
            yield f"{file} has more than the {LIMITS.file_bytes} bytes that hosts take of a boot file"
    yield from _problems_of_delta(request)


def _problems_of_delta(request: BuildRequest) -> Iterator[str]:
    if request.old is None:
        return
    if request.major == V1:
        yield "version 1 has deltas only in place, which need a copy of the old image in the slot: leave --major out"
    for image in (request.old, request.image):
        if image.stat().st_size % BLOCK:
            yield f"{image} is no whole number of blocks of {BLOCK} bytes"
