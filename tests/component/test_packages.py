"""A release's further files, from `build --package` over real HTTP to a host's directory, and all that may go wrong."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support import crau
from tests.support.processes import run_tool
from tests.support.releases import PRODUCT, Workshop


def tiny(folder: Path, name: str = "image", size: int = 5000) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def build(folder: Path, workshop: Workshop, *more: str | Path) -> tuple[int, str]:
    """Build release 1.1.0 of a tiny image by the command; return exit code and messages."""
    usual = ["--product", PRODUCT, "--channel", "stable", "--version", "1.1.0", "--rollback-index", "1"]
    key = workshop.keys / "private.pem"
    done = run_tool("update-payload", "build", tiny(folder), *usual, "--key", key, "--out", folder / "releases", *more)
    return done.returncode, done.stderr


@pytest.mark.parametrize("major", ["1", "2"])
def test_build_signs_lists_and_copies_packages(tmp_path: Path, workshop: Workshop, major: str) -> None:
    """Each package is in the signed manifest, in release.json and beside the payload; inspect shows it."""
    plain, oem = tiny(tmp_path, "tools.raw", 70_000), tiny(tmp_path, "oem-test.gz", 1)
    code, said = build(tmp_path, workshop, "--major", major, "--package", f"{plain}:sysext", "--package", oem)
    assert code == 0, said
    releases = tmp_path / "releases"
    payload = releases / f"{PRODUCT}-1.1.0.payload"
    found = crau.check(payload.read_bytes(), (workshop.keys / "public.pem").read_bytes())
    wanted = [("tools.raw", 70_000, sha256(plain.read_bytes()).digest(), "sysext")]
    wanted.append(("oem-test.gz", 1, sha256(oem.read_bytes()).digest(), "file"))
    assert found.packages == wanted
    facts = json.loads((releases / f"{PRODUCT}-1.1.0.release.json").read_text())
    assert [(entry["name"], entry["size"]) for entry in facts["packages"]] == [
        ("tools.raw", 70_000),
        ("oem-test.gz", 1),
    ]
    assert (releases / "tools.raw").read_bytes() == plain.read_bytes()
    shown = json.loads(run_tool("update-payload", "inspect", payload, "--json").stdout)["packages"]
    assert shown == [
        {"name": name, "size": size, "sha256": digest.hex(), "kind": kind} for name, size, digest, kind in wanted
    ]
    assert "tools.raw: 70000 bytes, sysext" in run_tool("update-payload", "inspect", payload).stdout


@pytest.mark.parametrize("name", [".hidden", "a b", "a..b", "ä.raw", "a%2fb", "x" * 201, "a\nb"])
def test_build_refuses_hostile_names(tmp_path: Path, workshop: Workshop, name: str) -> None:
    """A file whose name could mean something in a path or a URL can't go with a release."""
    code, said = build(tmp_path, workshop, "--package", tiny(tmp_path, name))
    assert (code, "Traceback" in said) == (2, False)
    assert not list(tmp_path.glob("releases/*.payload"))


def test_build_refuses_packages_that_cannot_be(tmp_path: Path, workshop: Workshop) -> None:
    """A file that isn't there, one that is empty, the agent's own kind and two of one name are usage errors."""
    good, other = tiny(tmp_path, "a.raw"), tmp_path / "other"
    other.mkdir()
    twice = tiny(other, "a.raw")
    (tmp_path / "empty").touch()
    for packages in (["gone.raw"], [tmp_path / "empty"], [f"{good}:index"], [f"{good}:B A D"], [good, twice]):
        assert build(tmp_path, workshop, *(part for one in packages for part in ("--package", one)))[0] == 2


def test_build_never_replaces_the_package_of_another_release(tmp_path: Path, workshop: Workshop) -> None:
    """A file of that name that another release put there stays as it is, for hosts may be fetching it."""
    package = tiny(tmp_path, "a.raw")
    assert build(tmp_path, workshop, "--package", package)[0] == 0
    before = package.read_bytes()
    assert build(tmp_path, workshop, "--package", package)[0] == 0
    package.write_bytes(b"another")
    assert build(tmp_path, workshop, "--package", package)[0] == 2
    assert (tmp_path / "releases/a.raw").read_bytes() == before
