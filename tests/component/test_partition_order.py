"""Payloads whose first partition isn't the one that goes into the slot: they are fetched in the payload's order."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.component.test_install import Host, ours
from tests.component.test_reuse import Counting
from tests.support.lying_server import LyingServer
from tests.support.releases import Workshop, sealed
from updated.errors import LocalError
from updated.install.checkpoint import Journal
from updated.install.fetch import HttpSource, make_http
from updated.payload import update_metadata_pb2 as pb
from updated.payload.manifest import OpType
from updated.release.sign import load_private_keys, signature_size

BLOCK = 4096
KERNEL, ROOT = random.Random(1).randbytes(6 * BLOCK), random.Random(2).randbytes(64 * BLOCK)
POLICY = {"allow_legacy_payloads": True}


def make_payload(path: Path, workshop: Workshop) -> Path:
    """Write a signed payload of version 2: the kernel, then the root, an operation for each block."""
    keys, data = load_private_keys(workshop.keys / "private.pem"), KERNEL + ROOT
    manifest = pb.DeltaArchiveManifest(block_size=BLOCK, minor_version=0)
    manifest.signatures_offset, manifest.signatures_size = len(data), signature_size(keys)
    offset = 0
    for name, content in (("kernel", KERNEL), ("root", ROOT)):
        partition = manifest.partitions.add(partition_name=name)
        partition.new_partition_info.size = len(content)
        partition.new_partition_info.hash = hashlib.sha256(content).digest()
        for at in range(0, len(content), BLOCK):
            operation = partition.operations.add(type=OpType.REPLACE, data_offset=offset, data_length=BLOCK)
            operation.data_sha256_hash = hashlib.sha256(content[at : at + BLOCK]).digest()
            operation.dst_extents.add(start_block=at // BLOCK, num_blocks=1)
            offset += BLOCK
    path.write_bytes(sealed(manifest, data, keys))
    return path


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_interrupted_install_goes_on_over_http(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Ranges ascend, also where the kernel is fetched once more and the root from where it was left."""
    monkeypatch.setattr("updated.install.carry.BATCH_BYTES", 4 * BLOCK)
    payload, host = make_payload(tmp_path / "payload", workshop), Host(tmp_path, None, 1024 * 1024)
    journal = Journal(tmp_path / "journal", every_bytes=BLOCK)
    told: dict[str, Any] = {"file_targets": {"kernel": tmp_path / "vmlinuz"}, "journal": journal, "policy": POLICY}
    size = payload.stat().st_size
    with pytest.raises(LocalError, match="cable"):
        host.install(payload, ours(workshop), source=Counting(payload, end_after=int(size * share)), **told)
    with LyingServer(payload.read_bytes()) as server, make_http() as http:
        source = HttpSource([server.url], http=http, expected_size=size)
        done = host.install(payload, ours(workshop), source=source, **told)
    assert host.content("B", len(ROOT)) == ROOT
    assert (tmp_path / "vmlinuz").read_bytes() == KERNEL
    assert done.bytes_done < size
