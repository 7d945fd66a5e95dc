"""Deltas: between real images and made-up ones, read back by the product and by a stranger, and put into a slot."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.component.test_install import Host, ours
from tests.support import crau
from tests.support.campaign import scale
from tests.support.images import make_erofs, make_ext4, make_tree
from tests.support.processes import run_tool
from tests.support.releases import PRODUCT, SLOT_BYTES, Workshop
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.keys import read_keyring
from updated.release import delta as made
from updated.release.build import BuildRequest, build
from updated.release.delta import make_delta
from updated.release.delta_plan import make_plan
from updated.release.ext4 import file_blocks
from updated.release.extract import extract

BLOCK = 4096


def delta(workshop: Workshop, out: Path, old: Path, new: Path, **changes: Any) -> Path:
    """Build a delta and return the payload."""
    request = BuildRequest(
        image=new, old=old, product=PRODUCT, channel="stable", version="1.1.0", rollback_index=1,
        key=workshop.keys / "private.pem", out=out, **changes,
    )  # fmt: skip
    return out / json.loads(build(request).read_text())["payload"]


def see_that_it_makes(workshop: Workshop, folder: Path, payload: Path, old: Path, new: Path) -> crau.Checked:
    """See that both readers make the new image of the old one."""
    public = (workshop.keys / "public.pem").read_bytes()
    found = crau.check(payload.read_bytes(), public, old=old.read_bytes())
    assert found.images == {"root": new.read_bytes()}
    keys = folder / "trusted"
    keys.mkdir(exist_ok=True)
    (keys / "ours.pem").write_bytes(public)
    extract(payload, "root", folder / "made", old=old, keyring=read_keyring(keys))
    assert (folder / "made").read_bytes() == new.read_bytes()
    return found


def trees(folder: Path) -> tuple[Path, Path]:
    """Two versions of a small system: files changed in the middle, grown, renamed by number, removed, new."""
    old = make_tree(folder / "old", "1.0.0", filler_bytes=3 * 1024 * 1024)
    new = folder / "new"
    shutil.copytree(old, new)
    (new / "usr/lib/os-release").write_text('ID=demo-os\nNAME="Demo OS"\nVERSION_ID=1.1.0\n')
    modules = sorted((new / "usr/lib/python").glob("*.py"))
    for number, path in enumerate(modules[:20]):
        text = path.read_text(errors="surrogateescape")
        middle = len(text) // 2
        path.write_text(text[:middle] + f"# change {number}\n" * number + text[middle:], errors="surrogateescape")
    (old / "usr/lib/driver-6.1.0-9.bin").write_bytes(random.Random(1).randbytes(300_000))
    body = bytearray((old / "usr/lib/driver-6.1.0-9.bin").read_bytes())
    body[1000:1000] = b"inserted"
    (new / "usr/lib/driver-6.1.0-10.bin").write_bytes(body)
    (new / "usr/lib/new.bin").write_bytes(random.Random(2).randbytes(100_000))
    modules[-1].unlink()
    return old, new


def test_delta_between_ext4_images(tmp_path: Path, workshop: Workshop) -> None:
    """Between two ext4 images, what changed is patched from the file that it came from, also from a renamed one."""
    old_tree, new_tree = trees(tmp_path)
    old = make_ext4(old_tree, tmp_path / "old.img", SLOT_BYTES)
    new = make_ext4(new_tree, tmp_path / "new.img", SLOT_BYTES)
    payload = delta(workshop, tmp_path / "out", old, new)
    found = see_that_it_makes(workshop, tmp_path, payload, old, new)
    assert set(found.operations["root"]) >= {crau.SOURCE_COPY, crau.BROTLI_BSDIFF, crau.ZERO}
    assert payload.stat().st_size < 100_000 + 60_000, "the new random file, and little for the 300,000 bytes renamed"


def test_delta_between_erofs_images(tmp_path: Path, workshop: Workshop) -> None:
    """Of another file system only the blocks are known; the delta is right all the same."""
    old_tree, new_tree = trees(tmp_path)
    old, new = make_erofs(old_tree, tmp_path / "old.img"), make_erofs(new_tree, tmp_path / "new.img")
    for image in (old, new):
        image.write_bytes(image.read_bytes() + bytes(-image.stat().st_size % BLOCK))
    see_that_it_makes(workshop, tmp_path, delta(workshop, tmp_path / "out", old, new), old, new)


def test_delta_is_the_same_for_any_number_of_jobs(tmp_path: Path, workshop: Workshop) -> None:
    """One job or three: the same bytes."""
    old, new = workshop.image("1.0.0"), workshop.image("1.1.0")
    one = delta(workshop, tmp_path / "one", old, new, jobs=1).read_bytes()
    assert delta(workshop, tmp_path / "three", old, new, jobs=3).read_bytes() == one


PIECES = st.lists(
    st.tuples(st.sampled_from(["keep", "change", "zero", "new", "swap", "insert"]), st.integers(0, 40)), max_size=12
)


@settings(
    max_examples=scale(6, 200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, *HealthCheck]
)
@given(seed=st.integers(0, 1000), pieces=PIECES, grow=st.integers(-20, 20))
def test_delta_of_anything(
    tmp_path_factory: pytest.TempPathFactory, workshop: Workshop, seed: int, pieces: list[tuple[str, int]], grow: int
) -> None:
    """Blocks moved, swapped, changed, zeroed, shifted by some bytes, images grown and shrunk: it is made again."""
    folder = tmp_path_factory.mktemp("pair")
    chance = random.Random(seed)
    before = [chance.randbytes(BLOCK) for _ in range(60)]
    after = list(before)
    for what, at in pieces:
        if what == "change":
            after[at] = after[at][:100] + b"changed" + after[at][107:]
        elif what == "zero":
            after[at] = bytes(BLOCK)
        elif what == "new":
            after[at] = chance.randbytes(BLOCK)
        elif what == "swap":
            after[at], after[-1 - at] = after[-1 - at], after[at]
        elif what == "insert":
            moved = b"few" + b"".join(after[at : at + 5])
            after[at : at + 5] = [moved[begin : begin + BLOCK] for begin in range(0, 5 * BLOCK, BLOCK)]
    after = after[:grow] if grow < 0 else after + [before[at] for at in range(grow)]
    old, new = folder / "old", folder / "new"
    old.write_bytes(b"".join(before))
    new.write_bytes(b"".join(after))
    see_that_it_makes(workshop, folder, delta(workshop, folder, old, new, jobs=1), old, new)


def test_delta_lands_in_the_other_slot(tmp_path: Path, workshop: Workshop) -> None:
    """A delta is installed from the running slot, which stays as it is; status says how small it was."""
    old, new = workshop.image("1.0.0"), workshop.image("1.1.0")
    host = Host(tmp_path, old, SLOT_BYTES)
    payload = delta(workshop, tmp_path / "out", old, new)
    done = host.install(payload, ours(workshop))
    assert host.content("B") == new.read_bytes()
    assert host.content("A") == old.read_bytes()
    assert done.bytes_done == payload.stat().st_size < new.stat().st_size // 20


def test_delta_from_another_image_is_refused(tmp_path: Path, workshop: Workshop) -> None:
    """A host that runs another image than the delta's old one refuses it before anything is written."""
    host = Host(tmp_path, workshop.image("1.2.0"), SLOT_BYTES)
    payload = delta(workshop, tmp_path / "out", workshop.image("1.0.0"), workshop.image("1.1.0"))
    before = host.disk.read_bytes()
    with pytest.raises(RefusedError) as caught:
        host.install(payload, ours(workshop))
    assert caught.value.code is ErrorCode.SOURCE_MISMATCH
    assert host.disk.read_bytes() == before
    with pytest.raises((LocalError, RefusedError)):
        extract(payload, "root", tmp_path / "made", old=workshop.image("1.2.0"), keyring=None)


def test_no_operation_is_large(tmp_path: Path) -> None:
    """However large a changed file is, no operation reads or writes more than a few MiB of it."""
    chance = random.Random(3)
    (tmp_path / "tree").mkdir()
    large = tmp_path / "tree/large"
    large.write_bytes(chance.randbytes(12 * 1024 * 1024))
    old = make_ext4(tmp_path / "tree", tmp_path / "old.img", 32 * 1024 * 1024)
    large.write_bytes(b"shifted" + large.read_bytes())
    new = make_ext4(tmp_path / "tree", tmp_path / "new.img", 32 * 1024 * 1024)
    plan = make_plan(old, new)
    assert sum(len(piece.new) for piece in plan.changed) * BLOCK >= 12 * 1024 * 1024
    assert max(len(piece.new) for piece in plan.changed) * BLOCK <= 2 * 1024 * 1024
    assert max(len(piece.old) for piece in plan.changed) * BLOCK <= 5 * 1024 * 1024
    with (tmp_path / "spool").open("wb") as spool:
        assert make_delta(old, new, spool, jobs=2).data_end < 200_000


def test_inspect_tells_of_a_delta(tmp_path: Path, workshop: Workshop) -> None:
    """`inspect --json` says which image a delta is for, and what its operations are."""
    old, new = workshop.image("1.0.0"), workshop.image("1.1.0")
    payload = delta(workshop, tmp_path, old, new)
    shown = json.loads(run_tool("update-payload", "inspect", payload, "--json").stdout)["partitions"][0]
    assert shown["old_sha256"] == make_plan(old, new).old_sha256.hex()
    assert shown["operations"]["SOURCE_COPY"]["count"] >= 1


def test_delta_from_an_image_that_was_cut_off(tmp_path: Path, workshop: Workshop) -> None:
    """What the files of the old image have beyond its end isn't read: hosts would refuse the delta."""
    trees_of: dict[str, Path] = {}
    for name, change in (("old", 0), ("new", 1)):
        trees_of[name] = tmp_path / name
        trees_of[name].mkdir()
        for number in range(4):
            body = bytearray(random.Random(number).randbytes(1_000_000))
            for at in range(0, len(body), BLOCK):
                body[at] ^= change
            (trees_of[name] / f"file-{number}").write_bytes(body)
    old = make_ext4(trees_of["old"], tmp_path / "old.img", SLOT_BYTES)
    new = make_ext4(trees_of["new"], tmp_path / "new.img", SLOT_BYTES)
    ends = [max(file.blocks) for file in file_blocks(old, BLOCK) if file.path.startswith("/file")]
    with old.open("r+b") as image:
        image.truncate((max(ends) - 100) * BLOCK)
    see_that_it_makes(workshop, tmp_path, delta(workshop, tmp_path / "out", old, new), old, new)


def test_process_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel kills for its memory ends the build with a way out."""
    monkeypatch.setattr(made, "_make", os._exit)
    with pytest.raises(LocalError) as caught:
        list(made._in_parallel(cast("Any", [9, 9]), 1))
    assert "--jobs" in caught.value.hint


def test_interrupt_is_for_the_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, which reaches all processes of a terminal, prints no traceback of each."""
    monkeypatch.setattr(made, "_make", signal.getsignal)
    assert list(made._in_parallel(cast("Any", [signal.SIGINT]), 1)) == [signal.SIG_IGN]
