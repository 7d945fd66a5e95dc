"""The benchmark's place of work: images, slots, servers, releases; each made when it is first wanted."""

from __future__ import annotations

import json
import mmap
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from tests.bench.httpd import STATS
from tests.bench.measure import Cost, median
from tests.bench.ours import Job, Result, install_apart
from tests.bench.releases import Builder, Release
from tests.bench.slots import attached, expect, fast_directory, make_slot, wipe
from tests.support.bootloader import Choice, valid_copies
from tests.support.disks import make_disk
from tests.support.processes import Process


@dataclass(frozen=True)
class Images:
    """The release that hosts run, and the one that they are to get."""

    old: Path
    new: Path


class Disk:
    """A disk with two slots: A runs and holds the old image, B is where installs go."""

    def __init__(self, backing: Path, device: Path, images: Images) -> None:
        self.device, self._images = device, images
        with backing.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            slots = {slot.label: slot for slot in valid_copies(data)[0].slots()}
        self.running: Choice = slots["USR-A"]
        self.target: Choice = slots["USR-B"]

    def wipe(self) -> None:
        """Empty the target."""
        wipe(self.device, self.target.offset, self.target.size)

    def check(self) -> None:
        """See that the target holds the new image.

        Raises:
            BenchError: it doesn't.
        """
        expect(self.device, self.target.offset, self._images.new)


class WebServer:
    """A running server; bytes and requests since the last look."""

    def __init__(self, url: str) -> None:
        self.url = url

    def take_stats(self) -> tuple[int, int]:
        """Return body bytes and requests since the last time."""
        with urllib.request.urlopen(self.url + STATS.lstrip("/")) as answer:
            stats = json.load(answer)
        return stats["bytes"], stats["requests"]


@dataclass(frozen=True)
class Fetched:
    """A measured install of ours, with what the server saw of it."""

    result: Result
    bytes: int
    requests: int


class Lab:
    """Everything that rows measure with. Use it as a context."""

    def __init__(self, directory: Path, runs: int, find_images: Callable[[], Images]) -> None:
        """Take the directory for what is kept between runs, and how often everything is measured."""
        self.directory, self.runs, self._find_images = directory, runs, find_images
        self._stack = ExitStack()
        self._jobs = 0

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def images(self) -> Images:
        return self._find_images()

    @cached_property
    def served(self) -> Path:
        path = self.directory / "served"
        path.mkdir(exist_ok=True)
        return path

    @cached_property
    def memory(self) -> Path:
        """A directory for slots: in memory where there is room."""
        place = fast_directory(self.directory, 4 * self.images.new.stat().st_size)
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="updated-bench-", dir=place)))

    @cached_property
    def builder(self) -> Builder:
        return Builder(self.served, self.directory / "keys")

    @cached_property
    def disk(self) -> Disk:
        """Our host's disk."""
        return self._stack.enter_context(disk_of(self.images, self.memory))

    @cached_property
    def peer_slot(self) -> Path:
        """The slot that peers write."""
        size = self.images.new.stat().st_size
        return self._stack.enter_context(attached(make_slot(self.memory / "peer-slot", size)))

    @cached_property
    def server(self) -> WebServer:
        return self.serve()

    def serve(self, bytes_per_sec: int = 0) -> WebServer:
        """Start a server of the built files."""
        log = self.memory / f"server-{bytes_per_sec}.log"
        argv = [sys.executable, "-m", "tests.bench.httpd", str(self.served), str(bytes_per_sec)]
        process = Process(argv, log)
        self._stack.callback(process.stop)
        port = process.wait_log("").strip()
        return WebServer(f"http://127.0.0.1:{port}/")

    # ---- our installs

    @cached_property
    def full(self) -> Release:
        return self.builder.build(self.images.new, "2.0.0")

    @cached_property
    def legacy(self) -> Release:
        return self.builder.build(self.images.new, "2.0.1", "--major", "1")

    def install(
        self, release: Release, *, reuse: bool = False, server: WebServer | None = None, disk: Disk | None = None
    ) -> Fetched:
        """Install a release into the wiped target, look whether it is there, return what it cost."""
        server, disk = server or self.server, disk or self.disk
        disk.wipe()
        self._jobs += 1
        job = Job(
            disk=str(disk.device),
            partuuid=disk.running.partuuid,
            url=server.url + release.payload.name,
            sha256=release.sha256,
            size=release.size,
            keys=str(self.builder.trusted),
            work=str(self.memory / f"job-{self._jobs}"),
            reuse=reuse,
            legacy=release is self.__dict__.get("legacy"),
        )
        server.take_stats()
        result = install_apart(job)
        count, requests = server.take_stats()
        disk.check()
        return Fetched(result, count, requests)

    def warm(self, path: Path) -> None:
        """Read a served file once, so that nobody waits for this machine's disk."""
        with path.open("rb") as file:
            while file.read(4 * 1024 * 1024):
                pass

    def rounds(self, runners: dict[str, Callable[[], Cost]]) -> dict[str, Cost]:
        """Run everybody in turn, as often as it is to be; return each one's medians."""
        costs: dict[str, list[Cost]] = {name: [] for name in runners}
        for number in range(self.runs):
            for name, runner in runners.items():
                cost = runner()
                costs[name].append(cost)
                print(f"  round {number + 1}: {name}: {cost}", flush=True)
        return {name: median(every) for name, every in costs.items()}


@contextmanager
def disk_of(images: Images, directory: Path) -> Iterator[Disk]:
    """Make a disk whose slots have the images' size, on a loop device; removed afterwards."""
    backing = directory / "disk.img"
    make_disk(backing, images.new.stat().st_size, {"USR-A": images.old})
    try:
        with attached(backing) as device:
            yield Disk(backing, device, images)
    finally:
        backing.unlink()
