"""The server side of the machines' tests: releases by the product's own builder, served by its own server."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from fixtures.image import cache
from fixtures.image.slot import SystemRelease, slot_image
from fixtures.image.system import keys
from tests.support.etcd import free_port
from tests.support.processes import Process, run_tool, tool, wait_for
from tests.support.tap import Tap

PRODUCT = "org.example.test-os"
SETTINGS = """[server]
url = "{url}/v1/update/"
product = "{product}"
initial_delay_secs = 3600.0
"""


def build_release(
    release: SystemRelease, out: Path, *options: str, rollback_index: int = 1, key: Path | None = None
) -> Path:
    """Build the release of a slot's image, uncompressed to save time, or take a cached one; return its release.json.

    Args:
        release: what it brings.
        out: where its files go.
        options: further ones of `update-payload build`.
        rollback_index: its own.
        key: what signs it; None: the key that the images trust.
    """
    key = key or keys() / "private.pem"
    image = slot_image(release)
    arguments = [
        "build", str(image), "--product", PRODUCT, "--channel", "stable", "--version", release.version,
        "--rollback-index", str(rollback_index), "--key", str(key), "--compression", "none", *options,
    ]  # fmt: skip

    def make(folder: Path) -> None:
        done = run_tool("update-payload", *arguments, "--out", folder)
        assert done.returncode == 0, done.stderr

    built = cache.cached("release", f"{release.version}-{cache.digest(*arguments, key.read_bytes())}", make)
    out.mkdir(parents=True, exist_ok=True)
    for file in built.iterdir():
        (out / file.name).unlink(missing_ok=True)
        _link(file, out / file.name)
    return next(out.glob(f"*-{release.version}.release.json"))


def _link(file: Path, path: Path) -> None:
    try:
        path.hardlink_to(file)
    except OSError:  # on another file system
        shutil.copyfile(file, path)


class ReleaseServer:
    """update-server on a free port of loopback, where the container's network is too; a context manager."""

    def __init__(self, folder: Path, tap: Tap | None = None) -> None:
        """Take a folder of its own, and a tap that packages are to come through."""
        self.folder, self._tap = folder, tap
        folder.mkdir(parents=True, exist_ok=True)
        self.url = ""
        self._server: Process | None = None

    def __enter__(self) -> Self:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        argv = [*tool("update-server"), "serve", str(self.folder), "--listen", f"127.0.0.1:{port}"]
        if self._tap is not None:
            self._tap.target = port
            argv += ["--public-url", self._tap.url]
        self._server = Process(argv, self.folder.with_suffix(".log"))
        wait_for(lambda: str(port) in self._log(), "update-server", self._server)
        return self

    def _log(self) -> str:
        return self.folder.with_suffix(".log").read_text()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.stop()

    def publish(self, release: SystemRelease, *options: str, rollback_index: int = 1, key: Path | None = None) -> None:
        """Build a release and offer it to everybody."""
        made = build_release(release, self.folder, *options, rollback_index=rollback_index, key=key)
        done = run_tool("update-server", "publish", self.folder, made, "--channel", "stable")
        assert done.returncode == 0, done.stderr

    @property
    def settings(self) -> str:
        """What a host's updated.toml says to be its client; it asks when it is told to."""
        return SETTINGS.format(url=self.url, product=PRODUCT)
