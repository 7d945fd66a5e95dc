"""`update-payload build` makes one payload of all that a slot is: root, verity tree, kernel and initrd, or a UKI."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import ENV
from tests.support.processes import run_tool
from tests.support.releases import PRODUCT, SLOT_BYTES, Workshop
from tests.support.uki import make_real_uki, make_uki
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.release.extract import inspect
from updated.release.slot_parts import tree_of, write_tree

BLOCK = 4096


@pytest.fixture
def keys(tmp_path: Path, workshop: Workshop) -> Path:
    (tmp_path / "keys").mkdir()
    workshop.trust(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A kernel and an initrd, of no whole number of blocks."""
    made = {name: tmp_path / name for name in ("kernel", "initrd")}
    for number, path in enumerate(made.values()):
        path.write_bytes(os.urandom(700_001 + number))
    return made


def veritysetup(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["veritysetup", *map(str, arguments)], env=ENV, capture_output=True, text=True, check=False)


def payload_of(workshop: Workshop, folder: Path, version: str = "1.1.0", **changes: Any) -> Path:
    workshop.build(folder, version, **changes)
    return folder / f"{PRODUCT}-{version}.payload"


def extracted(payload: Path, folder: Path, keys: Path, name: str, *more: str | Path) -> Path:
    out = folder / f"{name}.out"
    done = run_tool("update-payload", "extract", payload, "--keys", keys, "--partition", name, "--out", out, *more)
    assert done.returncode == 0, done.stderr
    return out


def test_a_set_comes_back(tmp_path: Path, workshop: Workshop, keys: Path, files: dict[str, Path]) -> None:
    """Root, tree, kernel and initrd are in one payload, and veritysetup takes what comes out of it."""
    payload = payload_of(workshop, tmp_path, make_verity=True, **files)
    assert run_tool("update-payload", "verify", payload, "--keys", keys).returncode == 0
    root, tree = (extracted(payload, tmp_path, keys, name) for name in ("root", "verity"))
    told = json.loads(run_tool("update-payload", "inspect", payload, "--json").stdout)
    assert [part["name"] for part in told["partitions"]] == ["root", "verity", "kernel", "initrd"]
    assert veritysetup("verify", root, tree, told["root_hash"]).returncode == 0
    for name, path in files.items():
        assert extracted(payload, tmp_path, keys, name).read_bytes() == path.read_bytes()
    assert root.read_bytes() == workshop.image("1.1.0").read_bytes()


def test_inspect_shows_the_root_hash_to_people(tmp_path: Path, workshop: Workshop) -> None:
    """`inspect` prints the root hash of the payload's tree."""
    payload = payload_of(workshop, tmp_path, make_verity=True)
    printed = run_tool("update-payload", "inspect", payload).stdout.splitlines()
    assert [line.split()[1] for line in printed if line.startswith("root_hash")] == [inspect(payload)["root_hash"]]


def test_two_builds_of_a_set_are_the_same(tmp_path: Path, workshop: Workshop, files: dict[str, Path]) -> None:
    """The same image makes the same tree and the same payload, whoever builds it."""
    first, second = (
        payload_of(workshop, tmp_path / name, make_verity=True, jobs=jobs, **files)
        for name, jobs in (("a", 1), ("b", 3))
    )
    assert first.read_bytes() == second.read_bytes()
    write_tree(workshop.image("1.1.0"), tmp_path / "hash")
    third = payload_of(workshop, tmp_path / "c", verity=tmp_path / "hash", **files)
    assert third.read_bytes() == first.read_bytes()


def test_the_command_prints_what_a_uki_is_built_with(tmp_path: Path, workshop: Workshop) -> None:
    """`update-payload verity` writes the tree and prints the root hash that veritysetup confirms."""
    image, out = workshop.image("1.1.0"), tmp_path / "hash"
    done = run_tool("update-payload", "verity", image, "--out", out)
    assert done.returncode == 0, done.stderr
    assert veritysetup("verify", image, out, done.stdout.strip()).returncode == 0


def test_a_tree_of_veritysetup_is_taken(tmp_path: Path, workshop: Workshop, keys: Path) -> None:
    """A tree that veritysetup made, with a salt of its own and in a longer image, goes in as it is."""
    image, out = workshop.image("1.1.0"), tmp_path / "hash"
    done = veritysetup("format", image, out)
    told = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    tree = out.read_bytes()
    out.write_bytes(tree + bytes(123_456))
    payload = payload_of(workshop, tmp_path, verity=out)
    assert inspect(payload)["root_hash"] == told["Root hash"].strip()
    assert extracted(payload, tmp_path, keys, "verity").read_bytes() == tree


def test_a_real_uki_goes_in(tmp_path: Path, workshop: Workshop, keys: Path) -> None:
    """A UKI made of systemd's stub, whose command line has the tree's root hash, is taken and comes back."""
    root_hash = tree_of(workshop.image("1.1.0")).root_hash
    parts = {".cmdline": f"ro quiet usrhash={root_hash}".encode(), ".linux": os.urandom(100_000)}
    uki = make_real_uki(tmp_path, tmp_path / "uki.efi", parts)
    payload = payload_of(workshop, tmp_path, make_verity=True, uki=uki)
    assert extracted(payload, tmp_path, keys, "uki").read_bytes() == uki.read_bytes()


def test_a_delta_has_the_other_parts_whole(
    tmp_path: Path, workshop: Workshop, keys: Path, files: dict[str, Path]
) -> None:
    """With --old the root is a delta, and tree and boot files need no old ones."""
    old, new = workshop.image("1.0.0"), workshop.image("1.1.0")
    payload = payload_of(workshop, tmp_path, old=old, make_verity=True, **files)
    root = extracted(payload, tmp_path, keys, "root", "--old", old)
    assert root.read_bytes() == new.read_bytes()
    for name in ("verity", "kernel", "initrd"):
        extracted(payload, tmp_path, keys, name)
    assert veritysetup("verify", new, tmp_path / "verity.out", inspect(payload)["root_hash"]).returncode == 0


def refused(workshop: Workshop, out: Path, **changes: Any) -> str:
    """Return why a build is refused; nothing of it may be left."""
    with pytest.raises(RefusedError) as caught:
        workshop.build(out, "1.1.0", **changes)
    assert caught.value.code is ErrorCode.VERITY_MISMATCH
    assert caught.value.hint
    assert not list(out.glob("*"))
    return caught.value.message


def test_a_tree_of_another_image_is_refused(tmp_path: Path, workshop: Workshop) -> None:
    """A tree that was made of another image, or that was changed, isn't signed with this one."""
    write_tree(workshop.image("1.0.0"), tmp_path / "other")
    assert "another image" in refused(workshop, tmp_path / "out", verity=tmp_path / "other")
    write_tree(workshop.image("1.1.0"), tmp_path / "own")
    tree = bytearray((tmp_path / "own").read_bytes())
    for what, at in (("another image", len(tree) - BLOCK), ("another image", 300), ("behind the tree", len(tree) + 5)):
        changed = bytearray(tree + bytes(BLOCK))
        changed[at] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        assert what in refused(workshop, tmp_path / "out", verity=tmp_path / "changed")


def test_a_tree_of_an_image_of_another_size_is_refused(tmp_path: Path, workshop: Workshop) -> None:
    """A tree over fewer blocks than the image has leaves some unverified, and is refused."""
    short = tmp_path / "short"
    short.write_bytes(workshop.image("1.1.0").read_bytes()[:-BLOCK])
    write_tree(short, tmp_path / "hash")
    assert str(SLOT_BYTES - BLOCK) in refused(workshop, tmp_path / "out", verity=tmp_path / "hash")


@pytest.mark.parametrize("name", ["roothash", "usrhash"])
def test_a_uki_of_another_root_hash_is_refused(tmp_path: Path, workshop: Workshop, name: str) -> None:
    """A UKI that would ask for another tree is refused, and the message has both root hashes."""
    uki, other = tmp_path / "uki.efi", "ab" * 32
    uki.write_bytes(make_uki(f"ro {name}={other} quiet"))
    message = refused(workshop, tmp_path / "out", make_verity=True, uki=uki)
    assert other in message
    assert tree_of(workshop.image("1.1.0")).root_hash in message


def test_every_profile_of_a_uki_counts(tmp_path: Path, workshop: Workshop) -> None:
    """A UKI whose second profile boots with another root hash, or with none, is refused like the first."""
    right, uki = tree_of(workshop.image("1.1.0")).root_hash, tmp_path / "uki.efi"
    for second in (f"roothash={'cd' * 32}", "quiet"):
        uki.write_bytes(make_uki(f"roothash={right}", (b".profile", b"ID=2\n"), (b".cmdline", second.encode())))
        refused(workshop, tmp_path / "out", make_verity=True, uki=uki)


def test_a_uki_without_a_root_hash_is_refused(tmp_path: Path, workshop: Workshop) -> None:
    """A UKI that says nothing of a root hash, or has no command line, isn't built in beside a tree."""
    uki = tmp_path / "uki.efi"
    for line in ("ro quiet", None):
        uki.write_bytes(make_uki(line))
        assert "nobody verifies" in refused(workshop, tmp_path / "out", make_verity=True, uki=uki)


def test_a_uki_with_a_root_hash_needs_the_tree(tmp_path: Path, workshop: Workshop) -> None:
    """A UKI that asks for a root hash is refused without a tree; one that doesn't is taken without."""
    uki = tmp_path / "uki.efi"
    uki.write_bytes(make_uki(f"roothash={'ab' * 32}"))
    assert "no verity tree" in refused(workshop, tmp_path / "out", uki=uki)
    uki.write_bytes(make_uki("root=PARTLABEL=USR-A ro"))
    payload_of(workshop, tmp_path / "out", uki=uki)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"major": 1, "make_verity": True}, "version 1"),
        ({"major": 1, "kernel": True, "initrd": True}, "version 1"),
        ({"major": 1, "uki": True}, "version 1"),
        ({"make_verity": True, "verity": True}, "--make-verity"),
        ({"uki": True, "kernel": True}, "--uki"),
        ({"uki": True, "initrd": True}, "--uki"),
        ({"initrd": True}, "--kernel"),
        ({"partition": "verity"}, "called"),
        ({"partition": "uki"}, "called"),
        ({"uki": True}, "no UKI"),
        ({"verity": True}, "no hash image"),
    ],
)
def test_what_makes_no_slot_is_refused(
    tmp_path: Path, workshop: Workshop, changes: dict[str, object], what: str
) -> None:
    """Parts that contradict each other, or files that aren't what they are called, are refused before any work."""
    (tmp_path / "file").write_bytes(b"neither a UKI nor a hash image" * 400)
    given = {
        name: tmp_path / "file" if value is True and name != "make_verity" else value for name, value in changes.items()
    }
    with pytest.raises(LocalError, match=what) as caught:
        workshop.build(tmp_path / "out", "1.1.0", **given)
    assert caught.value.code is ErrorCode.USAGE
    assert not list((tmp_path / "out").glob("*"))


def test_an_image_of_no_whole_blocks_has_no_tree(tmp_path: Path, workshop: Workshop) -> None:
    """An image whose last block isn't whole is refused for a tree, and the hint pads it."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(10_000))
    with pytest.raises(LocalError, match="whole blocks") as caught:
        workshop.build(tmp_path / "out", "1.1.0", image=image, make_verity=True)
    assert "truncate" in caught.value.hint


def test_the_command_takes_a_set(tmp_path: Path, workshop: Workshop, files: dict[str, Path]) -> None:
    """The command line has all parts, and a refusal exits with 3."""
    command = [
        "update-payload", "build", workshop.image("1.1.0"), "--product", PRODUCT, "--channel", "stable",
        "--version", "2.0", "--rollback-index", "1", "--key", workshop.keys / "private.pem", "--out", tmp_path / "out",
    ]  # fmt: skip
    options = ["--make-verity", "--kernel", files["kernel"], "--initrd", files["initrd"]]
    assert run_tool(*command, *options).returncode == 0
    (tmp_path / "uki.efi").write_bytes(make_uki("quiet"))
    done = run_tool(*command, "--make-verity", "--uki", tmp_path / "uki.efi")
    assert done.returncode == 3
    assert "roothash" in done.stderr


def test_a_manifest_that_makes_no_slot_is_not_published(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the builder itself leave a part out, hosts would refuse it, and so does the build."""
    monkeypatch.setattr("updated.release.build.VERITY", "hashes")
    with pytest.raises(RefusedError) as caught:
        workshop.build(tmp_path / "out", "1.1.0", make_verity=True)
    assert caught.value.code in (ErrorCode.SLOT_SET_INVALID, ErrorCode.PARTITION_UNKNOWN)
    assert not list((tmp_path / "out").glob("*.payload"))
