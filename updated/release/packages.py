"""A release's further files: named, sized and hashed in the signed manifest, copied beside the payload."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from updated.common.durable import write_atomic
from updated.errors import ErrorCode, LocalError
from updated.payload import update_metadata_pb2 as pb
from updated.payload.index import KIND as KIND_OF_INDEX
from updated.payload.limits import LIMITS
from updated.payload.parse import PACKAGE_NAME
from updated.release.beside import beside

KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
DEFAULT_KIND = "file"
RESERVED = (KIND_OF_INDEX,)  # kinds that `build` itself makes
PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file to go with a release; `kind` is a word for those who look at it."""

    path: Path
    kind: str = DEFAULT_KIND


@dataclass(frozen=True, slots=True)
class Measured:
    """What manifest and release.json say of a file; size in bytes."""

    name: str
    kind: str
    size: int
    sha1: bytes
    sha256: bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of release.json."""
        return {
            "name": self.name,
            "kind": self.kind,
            "size": self.size,
            "sha1": base64.b64encode(self.sha1).decode(),
            "sha256": self.sha256.hex(),
        }


def parse_package(text: str) -> PackageFile:
    """Read FILE or FILE:KIND, as the command line has it.

    Raises:
        LocalError: USAGE; there is no such file, or its name or kind can't be.
    """
    path, colon, kind = text.rpartition(":")
    if not colon or Path(text).is_file():
        path, kind = text, DEFAULT_KIND
    found = PackageFile(Path(path), kind)
    problem = None
    if not found.path.is_file() or not found.path.stat().st_size:
        problem = f"{found.path} is no file, or empty"
    elif not PACKAGE_NAME.fullmatch(found.path.name):
        problem = f"{found.path.name!r} can't be a package's name"
    elif not KIND.fullmatch(kind) or kind in RESERVED:
        problem = f"{kind!r} can't be a package's kind"
    if problem:
        raise LocalError(ErrorCode.USAGE, problem, hint="Write --package FILE or --package FILE:KIND.")
    return found


def add_packages(manifest: pb.DeltaArchiveManifest, files: Sequence[PackageFile], out: Path) -> list[Measured]:
    """Put files into the manifest and copies of them into `out`.

    Raises:
        LocalError: USAGE; two have the same name, `out` has another file of that name, or there are too many.
        OSError: a file can't be read or written.
    """
    names = [file.path.name for file in files]
    if len(set(names)) != len(names) or len(names) >= LIMITS.packages:  # one is the index
        raise LocalError(
            ErrorCode.USAGE, f"the packages are too many, or two have one name: {', '.join(names)}", hint="Rename one."
        )
    measured = []
    for file in files:
        found = measure(file.path, file.kind)
        _copy(file.path, out / found.name, found)
        manifest.packages.add(name=found.name, size=found.size, sha256=found.sha256, kind=found.kind)
        measured.append(found)
    return measured


def add_index(manifest: pb.DeltaArchiveManifest, index: bytes, path: Path) -> Measured:
    """Write the payload's index beside it and put it into the manifest.

    Raises:
        OSError: it can't be written.
    """
    write_atomic(path, index, 0o644)
    found = measure(path, KIND_OF_INDEX)
    manifest.packages.add(name=found.name, size=found.size, sha256=found.sha256, kind=found.kind)
    return found


def _copy(path: Path, copy: Path, found: Measured) -> None:
    """Copy a file; one of another release, which hosts may be fetching, is never replaced."""
    if copy.exists():
        if measure(copy, found.kind) != found:
            raise LocalError(
                ErrorCode.USAGE,
                f"{copy} is there already and is another file",
                hint="Give the file a name of its own in each release, as in NAME-VERSION.raw, or remove the old one.",
            )
        return
    with beside(copy) as part:
        shutil.copyfile(path, part)


def measure(path: Path, kind: str) -> Measured:
    """Return a file's size and hashes.

    Raises:
        OSError: it can't be read.
    """
    size, digests = 0, [hashlib.sha1(usedforsecurity=False), hashlib.sha256()]
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            size += len(piece)
            for digest in digests:
                digest.update(piece)
    return Measured(path.name, kind, size, digests[0].digest(), digests[1].digest())


def release_of(payload: Path) -> Path:
    """Return where a payload's release.json is; with a name of its own for each file beside another."""
    if payload.suffix == ".payload":
        return payload.with_suffix(".release.json")
    return payload.with_name(f"{payload.name}.release.json")


def write_release(payload: Path, facts: Mapping[str, Any]) -> Path:
    """Write a payload's release.json, which update-server reads; return its path.

    Raises:
        OSError: it can't be written.
    """
    path = release_of(payload)
    write_atomic(path, (json.dumps(facts, indent=2) + "\n").encode(), 0o644)
    return path
