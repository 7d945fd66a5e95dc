"""Boot entries' codecs and order, over everything that names, files and versions may be."""

from __future__ import annotations

import functools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.esp import make_uki
from tests.support.sdboot import Item, pe_sections, versions
from tests.support.sdboot import _order as model_order
from updated.slots.boot.bls import CONF, EFI, EntryFile, EntryName, parse_entry, parse_name
from updated.slots.boot.bls_order import Candidate, compare_versions, in_order
from updated.slots.boot.entry_text import PartitionNames, derive_entry
from updated.slots.boot.uki import parse_image

STEMS = st.text(st.sampled_from("abzAZ019+-._ ~"), min_size=1, max_size=12).filter(
    lambda text: not text.startswith((".", "auto-"))
)
COUNTS = st.integers(0, 2**31 - 1)
NAMES = st.builds(
    lambda stem, suffix, left, done: EntryName(stem, suffix, left, done if left is not None else 0),
    STEMS, st.sampled_from([CONF, EFI]), st.none() | COUNTS, COUNTS,
)  # fmt: skip
VERSIONS = st.text(st.sampled_from("019aZ.-~^_ +é"), max_size=8)
KEYS = st.sampled_from(["title", "version", "linux", "initrd", "options", "sort-key", "x"])
VALUES = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
A, B = "7130c94a-213a-4e5a-8e26-6cce9662f132", "e03dd35c-7c2d-4a47-b3fe-27f15780a57c"


@given(NAMES)
def test_names_are_read_as_they_are_written(name: EntryName) -> None:
    """A name with a counter is read back with stem and counts, and every name is written as it was read."""
    found = parse_name(str(name))
    assert found is not None
    assert parse_name(str(found)) == found
    if name.left is not None:
        assert found == name


@pytest.mark.parametrize(
    ("text", "left", "done", "stem"),
    [
        ("a+3.conf", 3, 0, "a"),
        ("a+3-0.conf", 3, 0, "a"),
        ("a+2-1.EFI", 2, 1, "a"),
        ("a+b+0-3.efi", 0, 3, "a+b"),
        ("a+.conf", None, 0, "a+"),
        ("a+3-.conf", None, 0, "a+3-"),
        ("a+3x.conf", None, 0, "a+3x"),
        ("a+99999999999.conf", None, 0, "a+99999999999"),
    ],
)
def test_counters_as_the_specification_has_them(text: str, left: int | None, done: int, stem: str) -> None:
    """`+LEFT` and `+LEFT-DONE` right before the suffix are a counter, and nothing else is."""
    name = parse_name(text)
    assert name is not None
    assert (name.left, name.done, name.stem) == (left, done, stem)


@pytest.mark.parametrize("text", ["a.txt", ".a.conf", "auto-a.conf", "a.conf.updated-new", "conf", "a.efi~"])
def test_other_files_are_no_entries(text: str) -> None:
    """What systemd-boot takes for no entry isn't one here, what an install stages among them."""
    assert parse_name(text) is None


@given(st.lists(st.tuples(KEYS, VALUES), max_size=6))
def test_an_entry_is_written_only_if_it_is_read_back_the_same(fields: list[tuple[str, str]]) -> None:
    """No value begins a line of its own: what can't be written so that it comes back is refused."""
    entry = EntryFile(tuple(fields))
    try:
        data = entry.encode()
    except ValueError:
        return
    assert parse_entry(data) == entry
    assert data.count(b"\n") == len(fields)


@given(st.binary(max_size=300))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    """Whatever is in an entry file or an image, it is read or refused with a ValueError, and reading ends."""
    for read in (parse_entry, lambda raw: parse_image(lambda offset, length: raw[offset : offset + length])):
        try:
            read(data)
        except ValueError:
            continue


@given(st.data())
def test_a_damaged_image_is_read_or_refused(data: st.DataObject) -> None:
    """A UKI with any bit flipped, or cut off anywhere, is read or refused, never looked for without an end."""
    raw = bytearray(make_uki("1.0", "root=PARTUUID=x"))
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[at // 8] ^= 1 << at % 8
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        parse_image(lambda offset, length: cut[offset : offset + length])
    except ValueError:
        return


def test_an_image_tells_what_the_model_reads() -> None:
    """Command line, sort key and version are those of the sections."""
    raw = make_uki("7.1", "root=PARTUUID=1 quiet", image_id="box")
    image = parse_image(lambda offset, length: raw[offset : offset + length])
    assert (image.cmdline, image.sort_key, image.version) == ("root=PARTUUID=1 quiet", "box", "7.1")
    assert pe_sections(raw)[".cmdline"] == b"root=PARTUUID=1 quiet\0"


@settings(deadline=None)
@given(VERSIONS, VERSIONS)
@example("1.0", "1")
@example("1", "01")
@example("a+2-1.conf", "a.conf")
def test_versions_compare_as_systemd_compares_them(one: str, other: str) -> None:
    """`systemd-analyze compare-versions` has the same verdict."""
    assert compare_versions(one, other) == versions(one, other)


CANDIDATES = st.builds(
    Candidate,
    st.builds(
        lambda stem, left, done: EntryName(stem, CONF, left, done if left is not None else 0),
        st.sampled_from(["a", "b", "slot-a"]), st.none() | st.integers(0, 2), st.integers(0, 2),
    ),
    st.sampled_from(["", "os", "z"]),
    st.sampled_from(["", "1", "2"]),
    st.sampled_from(["", "1", "1.0", "2~rc", "10"]),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(CANDIDATES, min_size=1, max_size=4), st.booleans())
def test_the_menu_is_in_the_models_order(candidates: list[Candidate], stripped: bool) -> None:
    """The same entry boots first by the product's order and by the independent model's."""
    items = [
        Item("f", str(c.name), c.name.stem, c.name.suffix, -1 if c.name.left is None else c.name.left, c.name.done,
             c.sort_key, c.machine_id, c.version, "", ())
        for c in candidates
    ]  # fmt: skip
    ours = in_order(candidates, stripped=stripped)
    theirs = sorted(items, key=functools.cmp_to_key(lambda a, b: model_order(a, b, not stripped)))
    keys = [(item.file, item.sort_key, item.machine, item.version) for item in theirs]
    assert [(str(c.name), c.sort_key, c.machine_id, c.version) for c in ours] == keys


OPTIONS = st.lists(
    st.sampled_from(
        [f"root=PARTUUID={A}", f"root=PARTUUID={A.upper()}", "root=PARTLABEL=USR-A", "quiet", "roothash=" + "0" * 64,
         f"systemd.verity_root_data=/dev/disk/by-partuuid/{A}", 'foo="a b"', "PARTLABEL=USR-ABC"]
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(OPTIONS, st.none() | st.just("ab" * 32))
def test_a_derived_entry_names_only_its_own_slot(options: list[str], root_hash: str | None) -> None:
    """Every word of the options that named the running slot names the other; every other word is as it was."""
    template = EntryFile((("linux", "/l"), ("options", " ".join(options))))
    own, other = PartitionNames((A,), ("USR-A",)), PartitionNames((B,), ("USR-B",))
    try:
        entry = derive_entry(template, names=(own, other), version="2", root_hash=root_hash, files=("/k", None))
    except ValueError:
        named = any(A in word.lower() or word.endswith("=USR-A") for word in options)
        hashed = any(word.startswith("roothash=") for word in options)
        assert not (named or hashed) or hashed != (root_hash is not None)
        return
    words = entry.options.split(" ")
    expected = [word.replace(A, B).replace(A.upper(), B) for word in " ".join(options).split(" ")]
    expected = ["root=PARTLABEL=USR-B" if word == "root=PARTLABEL=USR-A" else word for word in expected]
    assert words == [f"roothash={root_hash}" if word.startswith("roothash=") else word for word in expected]
