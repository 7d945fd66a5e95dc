"""The rows: what each figure of the table is made of. Ratios only ever compare what was measured in this very run."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from tests.bench import peers
from tests.bench.daemon import update_once, update_server
from tests.bench.grown import BLOCK, make_grown
from tests.bench.lab import Fetched, Images, Lab, disk_of
from tests.bench.measure import Cost
from tests.bench.slots import expect, wipe
from tests.bench.table import Goal, Outcome
from tests.bench.tools import need
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import HEADER_BYTES, parse_header
from updated.payload.manifest import OpType

MIB, MB = 1024 * 1024, 1_000_000
SLOW_LINE = 100_000_000 // 8  # bytes a second: 100 Mbit/s
GROWN_MIB = (256, 4096)
READ_BACK = "read back"  # of the slot that a peer wrote

GOALS = (
    Goal("full", "full payload: wall time against the fastest of rauc, swupdate, + read-back", 0.6, 0.4),
    Goal("bzip2", "version 1 payload: wall time against bzip2 on one thread", 0.6, 0.5),
    Goal("cpu", "full payload: processor time against swupdate + read-back", 1.0, 0.7),
    Goal("memory", "peak memory of the daemon during an install", 96, 64, "MiB"),
    Goal("size", "size of the full payload against zstd -9 of the image", 1.15, 1.05),
    Goal("reuse", "bytes fetched with reuse and index against that zstd -9", 0.28, 0.24),
    Goal("requests", "requests of that install", 60, 60, "requests"),
    Goal("delta", "bytes fetched with a delta against that zstd -9", 0.144, 0.11),
    Goal("build", "wall time of building that delta against xdelta3 -9", 2.0, 1.0),
    Goal("line", "install with reuse against a full one at 100 Mbit/s: wall time", 0.40, 0.30),
    Goal("grow", "peak memory, full install: image of 4 GiB against 256 MiB", 1.10, 1.02),
    Goal("grow-reuse", "memory with reuse, as the image grows, per block of 4 KiB", 24, 16, "bytes"),
)


class Rows:
    """Measures rows by their keys; what two of them need is measured once."""

    def __init__(self, lab: Lab, grown_mib: tuple[int, int] = GROWN_MIB) -> None:
        self._lab, self._grown_mib = lab, grown_mib
        self.notes: dict[str, object] = {}  # what was measured beside the rows' figures

    def measure(self, key: str) -> Outcome:
        """Measure one row.

        Raises:
            BenchError: it can't be measured here.
        """
        measures: dict[str, Callable[[], Outcome]] = {
            "full": self._full, "bzip2": self._bzip2, "cpu": self._cpu, "memory": self._memory, "size": self._size,
            "reuse": self._reuse, "requests": self._requests, "delta": self._delta, "build": self._build,
            "line": self._line, "grow": self._grow, "grow-reuse": self._grow_reuse,
        }  # fmt: skip
        return measures[key]()

    # ---- against the peers

    @cached_property
    def _desk(self) -> peers.Desk:
        return peers.open_desk(self._lab.served, self._lab.memory / "peers")

    @cached_property
    def _zstd9(self) -> int:
        """The bytes of the new image by `zstd -9`."""
        need({"zstd": "zstd"})
        return peers.zstd9(self._lab.images.new, self._lab.directory / "new.zst")

    @cached_property
    def _installs(self) -> dict[str, Cost]:
        """Full installs: ours, rauc's, swupdate's; and what the read-back costs that those two leave out."""
        lab, desk, slot = self._lab, self._desk, self._lab.peer_slot
        assert self._zstd9
        swu = peers.make_swu(desk, lab.directory / "new.zst", slot, "peer.swu")
        bundle = peers.make_bundle(desk, lab.images.new, "peer.raucb")
        for path in (swu, bundle, lab.full.payload):
            lab.warm(path)
        sizes = {"ours": lab.full.size, "rauc": bundle.stat().st_size, "swupdate": swu.stat().st_size}
        self.notes["full payload bytes"] = sizes
        with peers.rauc_service(desk, lab.disk.device, slot) as rauc:
            costs = lab.rounds(
                {
                    "ours": lambda: lab.install(lab.full).result.cost,
                    "rauc": lambda: self._checked(lambda: rauc.install(lab.server.url + bundle.name)),
                    "swupdate": lambda: self._checked(lambda: peers.swupdate(desk, lab.server.url + swu.name)),
                    READ_BACK: lambda: peers.read_back(slot),
                }
            )
        self.notes["full install"] = {name: str(cost) for name, cost in costs.items()}
        return costs

    def _checked(self, install: Callable[[], Cost]) -> Cost:
        """Let a peer install into its wiped slot; see that the image is there."""
        slot, image = self._lab.peer_slot, self._lab.images.new
        wipe(slot, 0, image.stat().st_size)
        cost = install()
        expect(slot, 0, image)
        return cost

    def _full(self) -> Outcome:
        costs = self._installs
        fastest = min(("rauc", "swupdate"), key=lambda name: costs[name].wall)
        ours, peer, rest = costs["ours"].wall, costs[fastest].wall, costs[READ_BACK].wall
        self.notes["full install, wall time, against the fastest without a read-back"] = round(ours / peer, 3)
        return Outcome(f"{ours:.2f} s", f"{peer:.2f} s ({fastest}) + {rest:.2f} s", ours / (peer + rest))

    def _cpu(self) -> Outcome:
        ours, peer, rest = (self._installs[name].cpu for name in ("ours", "swupdate", READ_BACK))
        self.notes["full install, processor time, against swupdate without a read-back"] = round(ours / peer, 3)
        return Outcome(f"{ours:.2f} s", f"{peer:.2f} s + {rest:.2f} s", ours / (peer + rest))

    def _bzip2(self) -> Outcome:
        lab, slot = self._lab, self._lab.peer_slot
        need(peers.PROGRAMS)
        stream = lab.served / "peer.bz2"
        write_stream(lab.legacy.payload, stream)
        for path in (stream, lab.legacy.payload):
            lab.warm(path)
        costs = lab.rounds(
            {
                "ours": lambda: lab.install(lab.legacy).result.cost,
                "bzip2": lambda: self._checked(lambda: peers.bzip2_apply(lab.server.url + stream.name, slot)),
            }
        )
        self.notes["version 1 install"] = {name: str(cost) for name, cost in costs.items()}
        ours, peer = costs["ours"].wall, costs["bzip2"].wall
        return Outcome(f"{ours:.1f} s", f"{peer:.1f} s", ours / peer)

    def _size(self) -> Outcome:
        return self._against_zstd9(self._lab.full.size)

    def _against_zstd9(self, ours: int) -> Outcome:
        return Outcome(f"{ours / MB:.1f} MB", f"{self._zstd9 / MB:.1f} MB", ours / self._zstd9)

    # ---- small updates

    @cached_property
    def _reused(self) -> Fetched:
        return self._lab.install(self._lab.full, reuse=True)

    def _reuse(self) -> Outcome:
        fetched = self._reused
        self.notes["install with reuse"] = str(fetched.result.cost)
        self.notes["index bytes"] = self._lab.full.index_size
        return self._against_zstd9(fetched.bytes)

    def _requests(self) -> Outcome:
        return Outcome(str(self._reused.requests), "", self._reused.requests)

    def _delta(self) -> Outcome:
        lab = self._lab
        release = lab.builder.build(lab.images.new, "2.0.2", "--old", str(lab.images.old))
        fetched = lab.install(release)
        self.notes["install of a delta"] = str(fetched.result.cost)
        return self._against_zstd9(fetched.bytes)

    def _build(self) -> Outcome:
        lab, sizes = self._lab, list[int]()
        need(peers.PROGRAMS)
        old, new = lab.images.old, lab.images.new

        def run_xdelta3() -> Cost:
            cost, size = peers.xdelta3(old, new, lab.memory / "delta.xd3")
            sizes.append(size)
            return cost

        costs = lab.rounds(
            {
                "ours": lambda: lab.builder.build(new, "2.0.2", "--old", str(old), anew=True).cost,
                "xdelta3": run_xdelta3,
            }
        )
        self.notes["building a delta"] = {name: str(cost) for name, cost in costs.items()} | {"xdelta3 bytes": sizes[0]}
        ours, peer = costs["ours"].wall, costs["xdelta3"].wall
        return Outcome(f"{ours:.1f} s", f"{peer:.1f} s", ours / peer)

    def _line(self) -> Outcome:
        """Compare wall times over a slow line; the peer is the same engine without reuse."""
        lab = self._lab
        slow = lab.serve(SLOW_LINE)
        costs = lab.rounds(
            {
                "with reuse": lambda: lab.install(lab.full, reuse=True, server=slow).result.cost,
                "full": lambda: lab.install(lab.full, server=slow).result.cost,
            }
        )
        ours, peer = costs["with reuse"].wall, costs["full"].wall
        return Outcome(f"{ours:.1f} s", f"{peer:.1f} s (ours, full)", ours / peer)

    # ---- memory

    def _memory(self) -> Outcome:
        """Let the real daemon update a host that has the release before; once more from a host that has nothing."""
        lab = self._lab
        with update_server(lab.full, lab.memory / "offered") as url:
            reused = [self._update(url, f"reuse-{number}") for number in range(lab.runs)]
            empty = Images(lab.memory / "empty.img", lab.images.new)
            with empty.old.open("wb") as file:
                file.truncate(lab.images.new.stat().st_size)
            place = lab.memory / "empty"
            place.mkdir()
            with disk_of(empty, place) as disk:
                full = update_once(lab.memory / "host-full", url, disk, lab.builder.trusted)
        self.notes["the daemon, start to end"] = {"with reuse": [*map(str, reused)], "nothing to reuse": str(full)}
        peak = max(cost.rss_mib for cost in (full, *reused))
        return Outcome(f"{peak:.0f} MiB", "", peak)

    def _update(self, url: str, name: str) -> Cost:
        lab = self._lab
        return update_once(lab.memory / f"host-{name}", url, lab.disk, lab.builder.trusted)

    @cached_property
    def _grown(self) -> dict[str, dict[bool, float]]:
        """Peak memory in MiB by the image's size, without and with reuse; on this machine's disk, for it is large."""
        lab = self._lab
        place = lab.directory / "grown"
        place.mkdir(exist_ok=True)
        found: dict[str, dict[bool, float]] = {}
        for name, mib in zip(("small", "large"), self._grown_mib, strict=True):
            images = Images(
                make_grown(place / f"old-{mib}.img", mib * MIB, old=True),
                make_grown(place / f"new-{mib}.img", mib * MIB, old=False),
            )
            release = lab.builder.build(images.new, f"3.{mib}.0")
            (place / "disk.img").unlink(missing_ok=True)  # of a run that was killed
            with disk_of(images, place) as disk:
                found[name] = {
                    reuse: lab.install(release, reuse=reuse, disk=disk).result.rss_mib for reuse in (False, True)
                }
        self.notes["memory by size, MiB"] = {
            f"{mib} MiB": {"full": round(found[name][False], 1), "with reuse": round(found[name][True], 1)}
            for name, mib in zip(found, self._grown_mib, strict=True)
        }
        return found

    def _grow(self) -> Outcome:
        small, large = self._grown["small"][False], self._grown["large"][False]
        return Outcome(f"{large:.1f} MiB", f"{small:.1f} MiB (ours, 256 MiB)", large / small)

    def _grow_reuse(self) -> Outcome:
        small, large = self._grown["small"][True], self._grown["large"][True]
        blocks = (self._grown_mib[1] - self._grown_mib[0]) * MIB // BLOCK
        return Outcome(f"{large:.1f} MiB", f"{small:.1f} MiB (ours, 256 MiB)", (large - small) * MIB / blocks)


def write_stream(payload: Path, out: Path) -> None:
    """Write a version 1 payload's data as one bzip2 stream that gives the image; data that weren't compressed are."""
    part = out.with_suffix(".part")
    with payload.open("rb") as source, part.open("wb") as target:
        header = parse_header(source.read(HEADER_BYTES))
        source.seek(header.header_size)
        manifest = pb.DeltaArchiveManifest.FromString(source.read(header.metadata_size - header.header_size))
        for operation in manifest.partition_operations:
            source.seek(header.data_start + operation.data_offset)
            blob = source.read(operation.data_length)
            target.write(blob if operation.type == OpType.REPLACE_BZ else bz2.compress(blob))
    part.rename(out)
