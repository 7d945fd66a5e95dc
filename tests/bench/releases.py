"""The product's releases that the benchmark installs, built once and kept until the builder or the image changes."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Cost, measure
from tests.bench.ours import CHANNEL, PRODUCT
from tests.bench.tools import run

ROOT = Path(__file__).parents[2]
PAYLOAD_TOOL = [sys.executable, "-m", "updated.release.main"]


@dataclass(frozen=True)
class Release:
    """A built release; the payload's size in bytes, its index's (0: it has none), what building it cost."""

    payload: Path
    size: int
    sha256: str
    index_size: int
    cost: Cost


class Builder:
    """Builds into the served directory."""

    def __init__(self, served: Path, keys: Path) -> None:
        self.served, self.keys = served, keys
        if not (keys / "private.pem").exists():
            run([*PAYLOAD_TOOL, "keygen", "--out", str(keys)])
        self.trusted = keys / "trusted"
        self.trusted.mkdir(exist_ok=True)
        (self.trusted / "release.pem").write_bytes((keys / "public.pem").read_bytes())

    def build(self, image: Path, version: str, *options: str, anew: bool = False) -> Release:
        """Return a release of an image; `version` tells the builds apart, `anew` builds in any case."""
        note = self.served / f"{version}.json"
        made_from = self._fingerprint(image, options)
        known = json.loads(note.read_text()) if note.exists() else {}
        payload = self.served / f"{PRODUCT}-{version}.payload"
        if anew or known.get("made_from") != made_from or not payload.exists():
            known = {"made_from": made_from, "cost": self._run(image, version, options)}
            note.write_text(json.dumps(known))
        facts = json.loads(payload.with_suffix(".release.json").read_text())
        index = payload.with_suffix(".index")
        size = index.stat().st_size if index.exists() and "--old" not in options else 0
        return Release(payload, payload.stat().st_size, facts["sha256"], size, Cost(*known["cost"]))

    def _run(self, image: Path, version: str, options: tuple[str, ...]) -> list[float]:
        print(f"building {PRODUCT} {version} of {image.name} {' '.join(options)}", flush=True)
        cost = measure([
            *PAYLOAD_TOOL, "build", str(image), "--product", PRODUCT, "--channel", CHANNEL, "--version", version,
            "--rollback-index", "1", "--key", str(self.keys / "private.pem"), "--out", str(self.served), *options,
        ])  # fmt: skip
        return [cost.wall, cost.cpu, cost.rss_mib]

    def _fingerprint(self, image: Path, options: tuple[str, ...]) -> str:
        """Hash what a payload depends on: the builder's code, the options, the image by its name, size and time."""
        sha = hashlib.sha256(repr(options).encode())
        for room in ("updated/release", "updated/payload"):
            for path in sorted((ROOT / room).glob("*.py")):
                sha.update(path.read_bytes())
        known = image.stat()
        sha.update(f"{image}:{known.st_size}:{known.st_mtime_ns}".encode())
        sha.update((self.keys / "public.pem").read_bytes())
        return sha.hexdigest()
