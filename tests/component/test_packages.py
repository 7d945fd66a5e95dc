"""A release's further files: what `build --package` makes of them, and how a host stages and installs them."""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support import crau
from tests.support.packages import signed_payload, spoil, tiny
from tests.support.processes import run_tool
from tests.support.releases import PRODUCT, Workshop
from updated.agent.download import Mirrors
from updated.errors import ErrorCode, LocalError, RefusedError, UpdateError
from updated.install.effort import Effort
from updated.install.fetch import FileSource, make_http
from updated.install.packages import PackagePlan, StagedPackages, fetch_packages, select_packages
from updated.payload import update_metadata_pb2 as pb
from updated.payload.framing import Header
from updated.payload.manifest import Package
from updated.payload.parse import BESIDE, parse_manifest
from updated.payload.trust import Keyring, load_keyring
from updated.release.sign import keygen


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
    assert [package for package in found.packages if package[3] != "index"] == wanted
    facts = json.loads((releases / f"{PRODUCT}-1.1.0.release.json").read_text())
    assert [(entry["name"], entry["size"]) for entry in facts["packages"] if entry["kind"] != "index"] == [
        ("tools.raw", 70_000),
        ("oem-test.gz", 1),
    ]
    assert (releases / "tools.raw").read_bytes() == plain.read_bytes()
    shown = json.loads(run_tool("update-payload", "inspect", payload, "--json").stdout)["packages"]
    assert [package for package in shown if package["kind"] != "index"] == [
        {"name": name, "size": size, "sha256": digest.hex(), "kind": kind} for name, size, digest, kind in wanted
    ]
    assert "tools.raw: 70000 bytes, sysext" in run_tool("update-payload", "inspect", payload).stdout


@pytest.mark.parametrize("name", [".hidden", "a b", "a..b", "ä.raw", "a%2fb", "x" * 201, "a\nb", "x.updated-new"])
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


def test_verify_looks_at_the_packages_beside(tmp_path: Path, workshop: Workshop) -> None:
    """`verify` refuses a payload beside which another file has a package's name, and says which it didn't find."""
    assert build(tmp_path, workshop, "--package", tiny(tmp_path, "a.raw"))[0] == 0
    (tmp_path / "trusted").mkdir()
    workshop.trust(tmp_path / "trusted")
    payload, package = tmp_path / f"releases/{PRODUCT}-1.1.0.payload", tmp_path / "releases/a.raw"
    verify = ("update-payload", "verify", payload, "--keys", tmp_path / "trusted")
    done = run_tool(*verify)
    assert (done.returncode, done.stderr) == (0, "")
    package.write_bytes(package.read_bytes()[::-1])
    done = run_tool(*verify)
    assert (done.returncode, "[package-mismatch]" in done.stderr) == (3, True)
    package.unlink()
    done = run_tool(*verify)
    assert (done.returncode, "a.raw" in done.stderr) == (0, True)


def test_build_never_replaces_the_package_of_another_release(tmp_path: Path, workshop: Workshop) -> None:
    """A file of that name that another release put there stays as it is, for hosts may be fetching it."""
    package = tiny(tmp_path, "a.raw")
    assert build(tmp_path, workshop, "--package", package)[0] == 0
    before = package.read_bytes()
    assert build(tmp_path, workshop, "--package", package)[0] == 0
    package.write_bytes(b"another")
    assert build(tmp_path, workshop, "--package", package)[0] == 2
    assert (tmp_path / "releases/a.raw").read_bytes() == before


HOSTILE = [
    "../x",
    "..",
    ".",
    "",
    "/etc/x",
    "a/b",
    "a\\b",
    "x\0",
    "x\ny",
    "%2e%2e",
    "x?y",
    "x#y",
    "a..b",
    ".x",
    "\u202ex",
    "x" * 300,
    f"x.raw{BESIDE}",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_in_a_signed_manifest_is_refused(name: str) -> None:
    """A manifest with a package whose name could lead elsewhere is refused as a whole, signed or not."""
    manifest = pb.DeltaArchiveManifest(block_size=4096, product="p", channels=["c"], version="1", rollback_index=1)
    part = manifest.partitions.add(partition_name="root")
    part.new_partition_info.size, part.new_partition_info.hash = 4096, b"h" * 32
    package = manifest.packages.add(name="good.raw", size=1, sha256=b"h" * 32)
    raw = manifest.SerializeToString()
    assert parse_manifest(raw, Header(2, len(raw))).packages[0].name == "good.raw"
    package.name = name
    raw = manifest.SerializeToString()
    with pytest.raises(RefusedError) as caught:
        parse_manifest(raw, Header(2, len(raw)))
    assert caught.value.code is ErrorCode.MANIFEST_PARSE


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://h/a/b.payload", "https://h/a/p.raw"),
        ("https://h:8/b.payload?x=/y/z#f", "https://h:8/p.raw"),
        ("http://h", "http://h/p.raw"),
    ],
)
def test_package_is_fetched_from_beside_the_payload(url: str, wanted: str) -> None:
    """Only the last component of the payload's path is another."""
    with make_http() as http:
        source = Mirrors(http, [url], None, Effort()).sibling("p.raw", 1)
    assert source._urls == [wanted]


class Shelf:
    """Files that packages are fetched from, a directory that they go to, and what a host does with them."""

    def __init__(self, folder: Path, keyring: Keyring) -> None:
        self.files, self.directory, self._keyring = folder / "files", folder / "slot-b", keyring
        self.files.mkdir()

    def add(self, name: str, content: bytes) -> Package:
        (self.files / name).write_bytes(content)
        return Package(name, len(content), sha256(content).digest(), "sysext")

    def fetch(self, *packages: Package, **plan: Any) -> StagedPackages:
        wanted = {"directory": self.directory, **plan}
        made = PackagePlan(lambda name, _size: FileSource(self.files / name), **wanted)
        seen: list[int] = []
        staged = fetch_packages(
            select_packages(packages, made), made, self._keyring, cancelled=threading.Event(), observe=seen.append
        )
        assert sum(seen) == sum(package.size for package in packages)
        return staged

    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.glob("*") if path.name[0] != "."}


@pytest.fixture
def shelf(tmp_path: Path, workshop: Workshop) -> Shelf:
    return Shelf(tmp_path, load_keyring({"ours": (workshop.keys / "public.pem").read_bytes()}))


def test_nothing_is_in_place_before_the_commit(shelf: Shelf) -> None:
    """Until everything was committed the directory has the old files, and without a commit they stay."""
    old = shelf.add("a.raw", b"old")
    with shelf.fetch(old) as staged:
        staged.commit()
    with shelf.fetch(shelf.add("a.raw", b"new"), shelf.add("b.raw", b"b")):
        assert {name: data for name, data in shelf.content().items() if "updated-new" not in name} == {"a.raw": b"old"}
    assert shelf.content() == {"a.raw": b"old"}


def test_what_the_last_release_had_there_goes(shelf: Shelf) -> None:
    """After a commit there is what this release has, and what somebody else put there; leftovers of a cut are gone."""
    with shelf.fetch(shelf.add("old.raw", b"old"), shelf.add("both.raw", b"1")) as staged:
        staged.commit()
    (shelf.directory / "mine.txt").write_bytes(b"not the agent's")
    (shelf.directory / "x.raw.updated-new").write_bytes(b"of an install that was cut")
    with shelf.fetch(shelf.add("both.raw", b"2"), shelf.add("new.raw", b"new")) as staged:
        staged.commit()
    assert shelf.content() == {"both.raw": b"2", "new.raw": b"new", "mine.txt": b"not the agent's"}
    with shelf.fetch() as staged:
        staged.commit()
    assert shelf.content() == {"mine.txt": b"not the agent's"}


def test_damaged_record_removes_nothing_else(shelf: Shelf) -> None:
    """A record of installed names that somebody changed can't make the agent remove what it never installed."""
    with shelf.fetch(shelf.add("a.raw", b"a")) as staged:
        staged.commit()
    precious = shelf.files / "precious"
    precious.write_text("keep me")
    (shelf.directory / ".updated-packages").write_text("../files/precious\n\xff\n.\n..\n")
    with shelf.fetch(shelf.add("b.raw", b"b")) as staged:
        staged.commit()
    assert precious.exists()
    assert set(shelf.content()) == {"a.raw", "b.raw"}


@pytest.mark.parametrize("major", [1, 2])
def test_package_that_is_a_payload_is_verified_and_unpacked(
    tmp_path: Path, workshop: Workshop, shelf: Shelf, major: int
) -> None:
    """Of a package that is a payload its image is installed as NAME.raw, which systemd-sysext takes."""
    image = tiny(tmp_path, size=200_001)
    package = shelf.add("oem-test.gz", signed_payload(workshop, tmp_path / "oem", image, major=major))
    with shelf.fetch(package) as staged:
        staged.commit()
    assert shelf.content() == {"oem-test.raw": image.read_bytes()}


SPOILS: dict[str, tuple[Callable[[bytes], bytes], ErrorCode]] = {
    "a bit of the data": (lambda payload: spoil(payload, 0.5), ErrorCode.OPERATION_HASH_MISMATCH),
    "a bit of the signature": (lambda payload: spoil(payload, 0.999), ErrorCode.SIGNATURE_MISMATCH),
    "cut": (lambda payload: payload[:-1], ErrorCode.PAYLOAD_SIZE_MISMATCH),
    "more behind it": (lambda payload: payload + b"x", ErrorCode.PAYLOAD_SIZE_MISMATCH),
    "nothing but a magic": (lambda payload: payload[:4], ErrorCode.PAYLOAD_SIZE_MISMATCH),
}


@pytest.mark.parametrize("how", SPOILS)
def test_payload_in_a_package_is_believed_by_its_own_signature(
    tmp_path: Path, workshop: Workshop, shelf: Shelf, how: str
) -> None:
    """A package that is a payload is refused when its own signature doesn't hold, though its hash was signed."""
    change, code = SPOILS[how]
    package = shelf.add("oem-test.gz", change(signed_payload(workshop, tmp_path / "oem", tiny(tmp_path), major=1)))
    with pytest.raises(UpdateError) as caught:
        shelf.fetch(package)
    assert (caught.value.code, shelf.content()) == (code, {})


def test_payload_in_a_package_by_a_stranger_is_refused(tmp_path: Path, workshop: Workshop, shelf: Shelf) -> None:
    """A package that is a payload must be signed by a key that this host trusts, and be one whole image."""
    keygen(tmp_path / "stranger")
    key = tmp_path / "stranger/private.pem"
    package = shelf.add("oem-test.gz", signed_payload(workshop, tmp_path / "a", tiny(tmp_path), key=key))
    with pytest.raises(RefusedError) as caught:
        shelf.fetch(package)
    assert caught.value.code is ErrorCode.METADATA_SIGNATURE_MISMATCH
    image = tiny(tmp_path)
    package = shelf.add("oem-test.gz", signed_payload(workshop, tmp_path / "b", image, kernel=image))
    with pytest.raises(RefusedError) as caught:
        shelf.fetch(package)
    assert (caught.value.code, shelf.content()) == (ErrorCode.PARTITION_UNKNOWN, {})


def test_two_packages_of_one_name_in_the_end_are_refused(tmp_path: Path, workshop: Workshop, shelf: Shelf) -> None:
    """A payload that would be unpacked over another package is refused."""
    image = shelf.add("oem-test.raw", b"x")
    package = shelf.add("oem-test.gz", signed_payload(workshop, tmp_path / "a", tiny(tmp_path)))
    with pytest.raises(RefusedError) as caught:
        shelf.fetch(image, package)
    assert (caught.value.code, shelf.content()) == (ErrorCode.PACKAGE_MISMATCH, {})


def test_packages_need_room(shelf: Shelf) -> None:
    """Packages larger than the file system's free space are refused before any is fetched."""
    huge = Package("huge.raw", 1 << 49, bytes(32), "file")
    with pytest.raises(LocalError) as caught:
        shelf.fetch(huge)
    assert caught.value.code is ErrorCode.NO_SPACE


class Faults:
    """Makes the k-th call that changes the disk fail with an error of the medium; counts them all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, number: int) -> None:
        self._at, self._number, self.calls = at, number, 0
        for owner, name in (
            (os, "pwrite"),
            (os, "pread"),
            (os, "fsync"),
            (os, "ftruncate"),
            (Path, "replace"),
            (Path, "unlink"),
        ):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                raise OSError(self._number, os.strerror(self._number))
            return real(*arguments, **named)

        return call


def renew(shelf: Shelf) -> None:
    """Put a release's two files in place, one of which an earlier release had too."""
    with shelf.fetch(shelf.add("both.raw", b"new"), shelf.add("new.raw", b"new")) as staged:
        staged.commit()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_each_write_may_fail(tmp_path: Path, workshop: Workshop, number: int) -> None:
    """Whichever write, flush, read or rename fails, it is told, each file is old or new, and a retry succeeds."""
    keyring = load_keyring({"ours": (workshop.keys / "public.pem").read_bytes()})
    for at in itertools.count(1):
        (tmp_path / str(at)).mkdir()
        shelf = Shelf(tmp_path / str(at), keyring)
        with shelf.fetch(shelf.add("both.raw", b"old"), shelf.add("gone.raw", b"old")) as staged:
            staged.commit()
        with pytest.MonkeyPatch.context() as patched:
            faults = Faults(patched, at, number)
            told = told_by(partial(renew, shelf))
        assert told in (None, ErrorCode.DOWNLOAD_WRITE, ErrorCode.NO_SPACE, ErrorCode.READ_BACK)
        assert told is not None or faults.calls < at, "a fault is never passed over"
        assert set(shelf.content().values()) <= {b"old", b"new"}
        assert [name for name in shelf.content() if name.endswith(".updated-new")] == []
        renew(shelf)
        assert shelf.content() == {"both.raw": b"new", "new.raw": b"new"}
        if faults.calls < at:
            break  # nothing is left that could fail
    assert at > 12


def told_by(work: Callable[[], None]) -> ErrorCode | None:
    """Return the error that an operator is told; None when the work succeeds."""
    try:
        work()
    except LocalError as error:
        return error.code
    return None


def test_directory_that_both_slots_would_share_is_refused(tmp_path: Path) -> None:
    """`packages.dir` without {slot}, which would change what the running release uses, is found by `config check`."""
    config = tmp_path / "updated.toml"
    config.write_text('[packages]\ndir = "/var/lib/extensions"\n')
    done = run_tool("update-ctl", "config", "check", "--config", config)
    assert (done.returncode, "{slot}" in done.stderr) == (1, True)
