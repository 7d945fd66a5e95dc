"""A release engineer's desk: keys, images and releases of a small operating system, each made when first wanted."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from tests.support.images import MIB, make_ext4, make_tree
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import V2, Header, encode_header
from updated.release.build import BuildRequest, build
from updated.release.sign import keygen, sign, signature_size
from updated.server.catalogue import Catalogue

PRODUCT = "org.example.test-os"
SLOT_BYTES = 16 * MIB
FILLER_BYTES = 4 * MIB


class Workshop:
    """Makes releases; `keys` has private.pem and public.pem."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys = directory / "keys"
        keygen(self.keys)

    def image(self, version: str, *, healthy: bool = True) -> Path:
        """Return the ext4 image of a version."""
        path = self.directory / f"{version}-{healthy}.img"
        if not path.exists():
            tree = make_tree(self.directory / f"tree-{path.stem}", version, healthy=healthy, filler_bytes=FILLER_BYTES)
            make_ext4(tree, path, SLOT_BYTES)
        return path

    def build(self, out: Path, version: str, *, healthy: bool = True, **changes: Any) -> Path:
        """Build a release into `out`; `changes` replace fields of the request. Returns its release.json."""
        request = BuildRequest(
            image=self.image(version, healthy=healthy),
            product=PRODUCT,
            channel="stable",
            version=version,
            rollback_index=1,
            key=self.keys / "private.pem",
            out=out,
        )
        return build(dataclasses.replace(request, **changes))

    def publish(self, out: Path, version: str, *, healthy: bool = True, **changes: Any) -> Path:
        """Build a release and offer it on the channel `stable` of our product, whatever it says itself."""
        release = self.build(out, version, healthy=healthy, **changes)
        Catalogue(out).publish(release, "stable")
        return release

    def trust(self, keys_dir: Path, name: str = "release.pem") -> None:
        """Install the public key on a host."""
        shutil.copy(self.keys / "public.pem", keys_dir / name)


def sealed(manifest: pb.DeltaArchiveManifest, data: bytes, keys: Sequence[RSAPrivateKey], major: int = V2) -> bytes:
    """Return a payload of a manifest that was written by hand, signed; in version 2 its metadata are, too."""
    raw = manifest.SerializeToString()
    metadata = encode_header(Header(major, len(raw), signature_size(keys) if major == V2 else 0)) + raw
    of_metadata = sign(sha256(metadata).digest(), keys) if major == V2 else b""
    return metadata + of_metadata + data + sign(sha256(metadata + data).digest(), keys)
