"""A release's further files on a host: the real daemon and server, and all that may go wrong between them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent_bench import Bench
from tests.support.packages import signed_payload, spoil, tiny
from tests.support.releases import PRODUCT, Workshop
from updated.omaha.protocol import App, Offer, Request, decide, encode_request, parse_response
from updated.release.packages import PackageFile


def with_packages(bench: Bench, folder: Path, *files: Path, **settings: Any) -> Path:
    """Publish release 1.1.0 with packages, and set the host up for them; return where its slot B has them."""
    bench.publish("1.1.0", packages=tuple(PackageFile(file) for file in files))
    lines = {"dir": f"{folder}/packages/{{slot}}", **settings}
    with (bench.machine.root / "updated.toml").open("a") as config:
        config.write("[packages]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
    bench.machine.stop()
    bench.machine.start()
    return folder / "packages/b"


@pytest.fixture
def files(tmp_path: Path, workshop: Workshop) -> Mapping[str, Path]:
    """A plain package and one that is a signed payload, before they go with a release."""
    desk = tmp_path / "desk"
    desk.mkdir()
    oem = desk / "oem-test.gz"
    image = tiny(desk, size=300_000)
    oem.write_bytes(signed_payload(workshop, desk / "oem", image, major=1))
    return {"plain": tiny(desk, "tools-1.1.0.raw", 123_456), "oem": oem, "image": image}


def test_packages_arrive_with_the_update(bench: Bench, tmp_path: Path, files: Mapping[str, Path]) -> None:
    """An update brings its packages into the directory of its slot, by the time that the slot may boot."""
    directory = with_packages(bench, tmp_path, files["plain"], files["oem"])
    done = bench.update()
    assert done.returncode == 0, done.stderr
    assert (directory / "tools-1.1.0.raw").read_bytes() == files["plain"].read_bytes()
    assert (directory / "oem-test.raw").read_bytes() == files["image"].read_bytes()
    visible = sorted(path.name for path in directory.iterdir() if path.name[0] != ".")
    assert visible == ["oem-test.raw", "tools-1.1.0.raw"]
    assert not (tmp_path / "packages/a").exists()


MISHAPS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "tampered": (lambda path: path.write_bytes(spoil(path.read_bytes(), 0.5)), 3, "package-mismatch"),
    "truncated": (lambda path: os.truncate(path, 100), 1, "payload-size-mismatch"),
    "overlong": (lambda path: path.write_bytes(path.read_bytes() + b"x"), 1, "payload-size-mismatch"),
    "missing": (lambda path: path.unlink(), 1, "http-status"),
}


def test_package_that_is_not_what_was_signed(bench: Bench, tmp_path: Path, files: Mapping[str, Path]) -> None:
    """A package that the server has otherwise, or not at all, ends the update; no file of it is left, no slot armed."""
    directory = with_packages(bench, tmp_path, files["oem"], files["plain"])
    for change, code, name in MISHAPS.values():
        shutil.copy(files["plain"], bench.releases)
        change(bench.releases / files["plain"].name)
        bench.refused(code, name)
        assert [path.name for path in directory.iterdir()] == []


def test_server_lists_packages_behind_the_payload(bench: Bench, files: Mapping[str, Path]) -> None:
    """The Omaha answer has the payload first and then each package, which are served as long as they are on offer."""
    bench.publish("1.1.0", packages=(PackageFile(files["plain"]),))
    url = bench.server.wait_log("listening on").split()[-1]
    request = encode_request(Request(App(appid=PRODUCT, version="1.0.0", track="stable", machineid="0" * 32)))
    with httpx.Client(trust_env=False) as http:
        answer = parse_response(http.post(f"{url}/v1/update/", content=request).content)
        offer = decide(answer, appid=PRODUCT, current_version="1.0.0")
        assert isinstance(offer, Offer)
        listed = {package.name: (package.size, package.sha256) for package in offer.extra_packages}
        content = files["plain"].read_bytes()
        assert offer.name == f"{PRODUCT}-1.1.0.payload"
        assert listed["tools-1.1.0.raw"] == (len(content), sha256(content).digest())
        package = f"{url}/packages/tools-1.1.0.raw"
        assert http.get(package).content == content
        assert http.get(package, headers={"Range": "bytes=5-9"}).content == content[5:10]
        bench.publish("1.2.0")
        assert http.get(package).status_code == 404


def test_package_that_no_manifest_has_is_ignored(bench: Bench, tmp_path: Path, files: Mapping[str, Path]) -> None:
    """What a server lists beyond the signed manifest is neither fetched nor installed."""
    directory = with_packages(bench, tmp_path, files["plain"])
    other = tiny(bench.releases, "evil.raw")
    release = next(bench.releases.glob("*.release.json"))
    facts = json.loads(release.read_text())
    entry = {**facts["packages"][0], "name": "evil.raw", "size": other.stat().st_size}
    release.write_text(json.dumps({**facts, "packages": [*facts["packages"], entry]}))
    assert bench.update().returncode == 0
    assert [path.name for path in directory.iterdir() if path.name[0] != "."] == ["tools-1.1.0.raw"]


def test_host_without_a_place_refuses_packages(bench: Bench, files: Mapping[str, Path]) -> None:
    """Where nobody said what to do with packages, a release that has some is refused before anything is written."""
    bench.publish("1.1.0", packages=(PackageFile(files["plain"]),))
    bits = bench.machine.slots()["B"]
    bench.refused(3, "package-no-place")
    assert bench.machine.slots()["B"] == bits


def test_host_that_wants_no_packages_installs_without(bench: Bench, tmp_path: Path, files: Mapping[str, Path]) -> None:
    """Of the packages only those that the settings want are fetched; the others aren't missed."""
    directory = with_packages(bench, tmp_path, files["plain"], files["oem"], wanted=["oem-*"])
    (bench.releases / files["plain"].name).unlink()
    assert bench.update().returncode == 0
    assert [path.name for path in directory.iterdir() if path.name[0] != "."] == ["oem-test.raw"]
