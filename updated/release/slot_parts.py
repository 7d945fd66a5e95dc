"""What goes into a payload beside the root: the verity tree of it, and boot files that fit to the tree.

A tree that was made elsewhere is computed again and compared; a UKI is asked which root hash it will boot with. So a
host that checks the payload's signature need not look into any of it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from updated.errors import ErrorCode, LocalError, RefusedError
from updated.release.beside import beside
from updated.release.request import BuildRequest
from updated.release.uki import command_lines, root_hashes
from updated.release.verity import (
    BLOCK,
    Superblock,
    Tree,
    VerityError,
    derived_salt,
    derived_uuid,
    make_tree,
    parse_superblock,
)

PIECE = 1024 * 1024  # bytes, whole blocks


def verity_tree(request: BuildRequest) -> Tree | None:
    """Return the tree that goes with the image: made here, or computed again and found to be the one that was given.

    Raises:
        LocalError: USAGE; there can be no tree of this image, or the hash image is none.
        RefusedError: VERITY_MISMATCH; the tree is another image's, or the UKI names another root hash.
        OSError: a file can't be read.
    """
    tree = None
    if request.make_verity:
        tree = tree_of(request.image)
    elif request.verity is not None:
        tree = _same_tree(request.image, request.verity)
    if request.uki is not None:
        _check_uki(request.uki, tree.root_hash if tree else None)
    return tree


def write_tree(image: Path, out: Path) -> str:
    """Write the hash image that `--make-verity` would make; return its root hash in lower-case hex.

    Raises:
        LocalError: USAGE, STATE.
    """
    try:
        tree = tree_of(image)
        with beside(out) as part:
            part.write_bytes(tree.data)
    except OSError as error:
        raise LocalError(
            ErrorCode.STATE, f"{error.filename or out}: {error.strerror}", hint="Look at the path and free space."
        ) from error
    return tree.root_hash


def tree_of(image: Path) -> Tree:
    """Make the tree of an image, the same each time: salt and UUID come from the image's hash.

    Raises:
        LocalError: USAGE; the image isn't whole blocks.
        OSError: it can't be read.
    """
    _check_blocks(image)
    digest = sha256()
    for piece in _pieces(image):
        digest.update(piece)
    return make_tree(_blocks(image), derived_salt(digest.digest()), derived_uuid(digest.digest()))


def _same_tree(image: Path, hash_image: Path) -> Tree:
    _check_blocks(image)
    with hash_image.open("rb") as file:
        superblock = _superblock(hash_image, file.read(BLOCK))
        if superblock.data_blocks * BLOCK != image.stat().st_size:
            raise _mismatch(
                f"{hash_image} is the tree of an image of {superblock.data_blocks * BLOCK} bytes, {image} has"
                f" {image.stat().st_size}"
            )
        tree = make_tree(_blocks(image), superblock.salt, superblock.uuid)
        file.seek(0)
        if file.read(len(tree.data)) != tree.data:
            raise _mismatch(
                f"{hash_image} is the tree of another image than {image}, whose root hash is {tree.root_hash}"
            )
        while rest := file.read(PIECE):  # a partition's image may be longer than the tree
            if any(rest):
                raise _mismatch(f"{hash_image} has something behind the tree of {image}")
    return tree


def _superblock(hash_image: Path, raw: bytes) -> Superblock:
    try:
        return parse_superblock(raw)
    except VerityError as error:
        raise LocalError(
            ErrorCode.USAGE,
            f"{hash_image} is no hash image that hosts can take: {error}",
            hint="Make it with `veritysetup format IMAGE HASH_IMAGE`, or let --make-verity make it.",
        ) from error


def _check_uki(uki: Path, root_hash: str | None) -> None:
    try:
        lines = _command_lines(uki)
    except ValueError as error:
        raise LocalError(
            ErrorCode.USAGE, f"{uki} is no UKI: {error}", hint="Make it with `ukify build`, see ukify(1)."
        ) from error
    for line in lines or [""]:
        named = root_hashes(line)
        others = [found for found in named if found != root_hash]
        if others and root_hash is None:
            raise _mismatch(f"{uki} boots with the root hash {others[0]}, and the payload has no verity tree")
        if others:
            raise _mismatch(f"{uki} boots with the root hash {others[0] or '(empty)'}, the tree's is {root_hash}")
        if root_hash is not None and not named:
            raise _mismatch(
                f"{uki} has a command line without roothash= or usrhash=: it would boot what nobody verifies, and the"
                f" tree's root hash is {root_hash}"
            )


def _command_lines(uki: Path) -> list[str]:
    with (
        uki.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        return command_lines(view)


def _check_blocks(image: Path) -> None:
    size = image.stat().st_size
    if not size or size % BLOCK:
        raise LocalError(
            ErrorCode.USAGE,
            f"{image} has {size} bytes, and a verity tree is over whole blocks of {BLOCK}",
            hint=f"Make the file system in blocks of {BLOCK} bytes, and pad the image: `truncate -s %{BLOCK} {image}`.",
        )


def _pieces(image: Path) -> Iterator[memoryview]:
    with image.open("rb") as file:
        while piece := file.read(PIECE):
            yield memoryview(piece)


def _blocks(image: Path) -> Iterator[memoryview]:
    for piece in _pieces(image):
        for at in range(0, len(piece), BLOCK):
            yield piece[at : at + BLOCK]


def _mismatch(what: str) -> RefusedError:
    return RefusedError(
        ErrorCode.VERITY_MISMATCH,
        what,
        hint="Make image, tree and UKI in this order: `update-payload verity IMAGE --out HASH_IMAGE` prints the root"
        " hash, `ukify build --cmdline 'roothash=...'` takes it in.",
    )
