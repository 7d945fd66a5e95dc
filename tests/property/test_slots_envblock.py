"""GRUB's environment block: what GRUB's own tool reads and writes, and each bit flipped for the real GRUB to judge."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.campaign import scale
from tests.support.grub import GrubHost, edit, picks_of
from tests.support.slots import other_slot
from updated.slots.boot.envblock import MARK, SECTOR, SIZE, changed_block, new_block, parse_block

WORDS = st.text(st.sampled_from("abAB_19"), min_size=1, max_size=8)
TEXTS = st.text(st.sampled_from("ab \\=#'\"$é"), max_size=12)
OURS = {"ORDER": "B A", "A_OK": "0", "A_TRY": "1", "B_OK": "1", "B_TRY": "0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


@settings(deadline=None, max_examples=scale(40, 400))
@given(st.dictionaries(WORDS, TEXTS, max_size=6))
def test_what_grub_wrote_is_read_and_kept(folder: Path, variables: dict[str, str]) -> None:
    """Variables that grub-editenv set are read as it lists them, and after a change of ours it still lists them."""
    block = folder / "grubenv"
    block.unlink(missing_ok=True)
    edit(block, "create")
    for name, value in variables.items():
        edit(block, "set", f"{name}={value}")
    found = parse_block(block.read_bytes())
    assert found.variables == variables
    block.write_bytes(changed_block(found, OURS))
    listed = dict(line.split("=", 1) for line in edit(block, "list").splitlines())
    assert listed == {**OURS, **{name: value for name, value in variables.items() if name not in OURS}}


@given(st.binary(max_size=SIZE - len(MARK)))
def test_any_block_is_read_and_changed(rest: bytes) -> None:
    """Whatever follows the mark, our variables come back after a change, in the first sector, or nothing is written."""
    block = parse_block((MARK + rest).ljust(SIZE, b"#"))
    try:
        after = changed_block(block, OURS)
    except ValueError:
        return
    assert len(after) == SIZE
    assert {name: parse_block(after).variables.get(name) for name in OURS} == OURS
    first = parse_block(after[:SECTOR].ljust(SIZE, b"#"))
    assert {name: first.variables.get(name) for name in OURS} == OURS


@pytest.mark.parametrize("raw", [b"", MARK, MARK.ljust(SIZE - 1, b"#"), MARK.ljust(SIZE + 1, b"#"), b"#" * SIZE])
def test_what_grub_could_not_save_into_is_no_block(raw: bytes) -> None:
    """A block without its mark or of another size is refused."""
    with pytest.raises(ValueError, match="it "):
        parse_block(raw)


@pytest.mark.parametrize(("name", "value"), [("A OK", "1"), ("A_OK", "1\nB_OK=1"), ("A_OK", "a\\"), ("", "1")])
def test_nothing_can_be_smuggled_in(name: str, value: str) -> None:
    """Names and values that would change the block's lines are refused."""
    with pytest.raises(ValueError, match="can't be written"):
        new_block({name: value})


def flips(blocks: tuple[bytes, bytes], which: int) -> list[tuple[bytes, bytes]]:
    """Return both blocks with a bit of one flipped: each that says something, of the padding every 31st or all."""
    said = len(blocks[which].rstrip(b"#")) + 1
    found = []
    for bit in (*range(said * 8), *range(said * 8, SIZE * 8, scale(31, 1))):
        raw = bytearray(blocks[which])
        raw[bit // 8] ^= 1 << bit % 8
        found.append((bytes(raw), blocks[1]) if which == 0 else (blocks[0], bytes(raw)))
    return found


def picked(tmp_path: Path, cases: list[tuple[bytes, bytes]], boots: int) -> list[str]:
    found: list[str] = []
    for start in range(0, len(cases), 256):
        work = tmp_path / f"run{start}"
        work.mkdir()
        found += picks_of(work, cases[start : start + 256], boots)
    return found


@pytest.mark.parametrize("which", [0, 1], ids=["the block", "the proven slot's"])
def test_every_bit_while_the_other_slot_is_written(tmp_path: Path, which: int) -> None:
    """With any bit of either block flipped while A is being written, the real GRUB boots B, three times in a row."""
    blocks = new_block(OURS), new_block({"PROVEN": "B"})
    cases = flips(blocks, which)
    assert set(picked(tmp_path, cases, 3)) == {"BBB"}


def test_every_bit_after_a_boot_that_did_not_speak(tmp_path: Path) -> None:
    """With any bit flipped after the armed slot B booted and fell silent, the old slot A boots within three boots."""
    tried = {"ORDER": "B A", "A_OK": "1", "A_TRY": "0", "B_OK": "1", "B_TRY": "1"}
    cases = flips((new_block(tried), new_block({"PROVEN": "A"})), 0)
    assert {picks[-1] for picks in picked(tmp_path, cases, 3)} == {"A"}


def test_a_torn_write_is_old_or_new(tmp_path: Path) -> None:
    """Of each change any mixture of the two sectors, old and new, boots the old choice or the new one."""
    host = GrubHost(tmp_path)
    host.factory()
    edit(host.block, "set", "saved_entry=" + "x" * 500)
    host.confirm()
    proven, cases = (host.grub / "grubenv.proven").read_bytes(), []
    control = host.control()
    for change in (
        lambda: control.unmark(other_slot(control)),
        lambda: control.arm(other_slot(control), 1),
    ):
        old = host.block.read_bytes()
        change()
        new = host.block.read_bytes()
        cases += [(old[:SECTOR] + new[SECTOR:], proven), (new[:SECTOR] + old[SECTOR:], proven)]
    assert picked(tmp_path, cases, 2) == ["AA", "AA", "AA", "BA"]


def test_a_damaged_block_is_mended_by_a_confirmed_boot(tmp_path: Path) -> None:
    """With any bit flipped the agent still tells its slots, and after its confirmation the block is sound again."""
    host = GrubHost(tmp_path, running="B")
    for block, _ in flips((new_block(OURS), b""), 0)[:: scale(7, 1)]:
        host.block.write_bytes(block)
        assert [slot.name for slot in host.control().slots()] == ["A", "B"]
        host.confirm()
        found = parse_block(host.block.read_bytes())
        assert (found.get("ORDER")[:3], found.get("B_OK"), found.get("B_TRY")) == ("B A", "1", "0")
