"""The product's own side of the benchmark: the install as the daemon calls it, in a process of its own.

    python -m tests.bench.ours JOB.json

prints what it cost as JSON. Measured is the call, not the start of Python: the daemon runs already when an update
comes. This is the only module of the benchmark that calls the engine.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urljoin

from tests.bench.measure import Cost, high_water
from tests.bench.tools import run
from updated.install.checkpoint import Journal
from updated.install.fetch import HttpSource, make_http
from updated.install.keys import read_keyring
from updated.install.packages import PackagePlan
from updated.install.pipeline import InstallRequest, install
from updated.payload.trust import TrustPolicy
from updated.slots.boot.gptprio import GptPrio
from updated.slots.layout import HostPaths

PRODUCT = "org.example.bench-os"
CHANNEL = "stable"


@dataclass(frozen=True)
class Job:
    """One install."""

    disk: str  # a block device, or a file
    partuuid: str  # of the running slot
    url: str
    sha256: str  # of the payload, hexadecimal
    size: int  # of the payload, bytes
    keys: str  # directory of public keys
    work: str  # an empty directory
    reuse: bool  # with the release's index, from beside the payload
    legacy: bool = False  # version 1


@dataclass(frozen=True)
class Result:
    """What an install cost, and how many bytes the engine says it fetched and didn't need to."""

    wall: float
    cpu: float
    rss_mib: float
    fetched: int
    reused: int

    @property
    def cost(self) -> Cost:
        return Cost(self.wall, self.cpu, self.rss_mib)


def install_apart(job: Job) -> Result:
    """Carry a job out in a process of its own.

    Raises:
        BenchError: it fails.
    """
    work = Path(job.work)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "job.json"
    path.write_text(json.dumps(asdict(job)))
    said = run([sys.executable, "-m", "tests.bench.ours", str(path)]).stdout
    return Result(**json.loads(said.splitlines()[-1]))


def carry_out(job: Job) -> Result:
    """Install."""
    work = Path(job.work)
    for name in ("mountinfo", "cmdline"):
        (work / name).write_text("")
    host = HostPaths(cmdline=work / "cmdline", mountinfo=work / "mountinfo", root=work)
    with make_http() as http:
        plan = PackagePlan(lambda name, size: HttpSource([urljoin(job.url, name)], http=http, expected_size=size))
        request = InstallRequest(
            keyring=read_keyring(Path(job.keys)),
            policy=TrustPolicy(PRODUCT, (CHANNEL,), 0, allow_legacy_payloads=job.legacy),
            now=datetime.now(UTC),
            offer_sha256=bytes.fromhex(job.sha256),
            offer_size=job.size,
            offer_version="2",
            packages=plan if job.reuse else None,
            journal=Journal(work / "install"),
        )
        wall, cpu = time.monotonic(), time.process_time()
        done = install(
            request,
            source=HttpSource([job.url], http=http, expected_size=job.size),
            boot=GptPrio(Path(job.disk), booted_partuuids=(job.partuuid,)),
            host=host,
            observe=lambda _progress: None,
            cancelled=threading.Event(),
        )
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return Result(wall, cpu, high_water(os.getpid()) / 1024, done.bytes_done, done.bytes_reused)


def main() -> None:
    """Carry out the job of a file."""
    print(json.dumps(asdict(carry_out(Job(**json.loads(Path(sys.argv[1]).read_text()))))))


if __name__ == "__main__":
    main()
