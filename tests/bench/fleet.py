"""A simulated fleet on one real etcd: what does it cost to grant a reboot slot, with how many hosts waiting?

    python -m tests.bench.fleet [--waiters 10 100 1000] [--json]

Every host is the product's own `Semaphore` on its own client. Beside it, in the same run, the same fleet with
locksmith's way: one document, read and compare-and-swap, a back-off that doubles. Times are scaled 1:50 (a reboot of
60 s takes 1.2 s); what counts are requests and order, which the machine's speed doesn't change. 100 hosts a second
come to want a reboot. All in one process on one etcd with its data in memory.

Requests by time are counted apart: a host that waits renews its lease, looks, and watches anew each half minute, which
isn't scaled, and is the more the longer the wait is, whoever else waits. The others are what a slot costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.fleet_cas import run_cas
from tests.bench.fleet_tickets import WATCH_SECS, Load, run_tickets
from tests.bench.measure import cpu_of, high_water
from tests.support.etcd import Etcd
from updated.common.cli import table

DEFAULT_WAITERS = (10, 100, 1000)
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Row:
    """What one run cost."""

    design: str
    waiters: int
    max: int
    granted: int
    secs: float
    requests: int
    by_time: int  # of the requests, those that are only there because the wait was long
    compare_failures: int
    faults: int  # requests that etcd failed, too busy with the rest
    inversions: int  # hosts that went although `max` or more were ahead of them

    client_cpu_secs: float
    etcd_cpu_secs: float
    etcd_mib: float  # the most memory that it had so far

    @property
    def per_slot(self) -> float:
        """Requests for each slot granted, whatever the time that it took."""
        return (self.requests - self.by_time) / max(self.granted, 1)


async def measure(etcd: Etcd, waiters: int, *, secs: float, cas_secs: float, watch_secs: float) -> list[Row]:
    """Run the fleet with tickets, then with compare-and-swap; each is ended after its time, and left out with none."""
    limit = max(1, waiters // 20)
    rows = []
    for design, run, bound in (("tickets", run_tickets, secs), ("compare-and-swap", run_cas, cas_secs)):
        if bound <= 0:
            continue
        loop = asyncio.get_running_loop()
        start, client_cpu, etcd_cpu = loop.time(), time.process_time(), cpu_of(etcd.pid)
        load = Load(waiters, limit, bound, watch_secs=watch_secs)
        tally = await run(etcd.endpoint, load, random.Random(waiters))
        rows.append(
            Row(
                design=design, waiters=waiters, max=limit, granted=tally.granted, secs=round(loop.time() - start, 1),
                requests=tally.requests, by_time=tally.by_time, compare_failures=tally.compare_failures,
                faults=tally.faults, inversions=tally.inversions,
                client_cpu_secs=round(time.process_time() - client_cpu, 1),
                etcd_cpu_secs=round(cpu_of(etcd.pid) - etcd_cpu, 1), etcd_mib=high_water(etcd.pid) / 1024,
            )
        )  # fmt: skip
    return rows


def render(rows: Sequence[Row]) -> str:
    """Lay the rows out for people."""
    header = (
        "design", "waiters", "max", "granted", "seconds", "requests", "by time", "the others per slot",
        "compare failures", "out of turn", "faults", "CPU here", "CPU of etcd", "its MiB",
    )  # fmt: skip
    lines = [
        (
            row.design, str(row.waiters), str(row.max), f"{row.granted} of {row.waiters}", f"{row.secs:.1f}",
            str(row.requests), str(row.by_time), f"{row.per_slot:.1f}", str(row.compare_failures), str(row.inversions),
            str(row.faults), f"{row.client_cpu_secs:.1f}", f"{row.etcd_cpu_secs:.1f}", f"{row.etcd_mib:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    return table(lines, header)


def run(waiters: Sequence[int], *, secs: float, cas_secs: float, watch_secs: float) -> list[Row]:
    """Measure each size on an etcd of its own."""
    rows = []
    for count in waiters:
        folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        with folder as name, Etcd(Path(name), "--quota-backend-bytes", str(4 << 30)) as etcd:
            rows += asyncio.run(measure(etcd, count, secs=secs, cas_secs=cas_secs, watch_secs=watch_secs))
    return rows


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description="requests for each reboot slot granted, tickets beside locksmith's way"
    )
    parser.add_argument("--waiters", type=int, nargs="+", default=DEFAULT_WAITERS, metavar="N")
    parser.add_argument("--secs", type=float, default=1800.0, help="end a run with tickets after this time")
    parser.add_argument("--cas-secs", type=float, default=120.0, help="likewise compare-and-swap; 0: leave it out")
    parser.add_argument(
        "--watch-secs", type=float, default=WATCH_SECS, help="how long a host waits before it looks without a reason"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = run(
        arguments.waiters, secs=arguments.secs, cas_secs=arguments.cas_secs, watch_secs=arguments.watch_secs
    )  # fmt: skip
    if arguments.json:
        print(json.dumps([asdict(row) | {"per_slot": round(row.per_slot, 2)} for row in rows], indent=2))
    else:
        print(render(rows))


if __name__ == "__main__":
    main()
