"""Files that go with a release, for tests: small ones, ones that are payloads themselves, and spoiled ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.support.releases import PRODUCT, Workshop


def tiny(folder: Path, name: str = "image", size: int = 5000) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def signed_payload(workshop: Workshop, folder: Path, image: Path, **changes: Any) -> bytes:
    """Build what Flatcar calls oem-NAME.gz: a payload whose one partition is the package's content."""
    workshop.build(folder, "9.9.9", image=image, **changes)
    return (folder / f"{PRODUCT}-9.9.9.payload").read_bytes()


def spoil(payload: bytes, at: float) -> bytes:
    place = int(len(payload) * at)
    return payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]
