"""What systemd-boot's back end refuses: nothing is written, and the error says what is in the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.esp import EspHost, update
from tests.support.sdboot import Tree, menu
from tests.support.slots import other_slot
from updated.errors import ErrorCode, LocalError, RefusedError


@pytest.fixture(params=["names with counters", "names without"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> EspHost:
    """A host that runs from slot A, confirmed; both ways in which systemd-boot's versions compare names."""
    return EspHost(tmp_path, counted_names=request.param == "names with counters")


@pytest.mark.parametrize("verb", ["unmark", "arm"])
def test_the_running_slot_is_refused(host: EspHost, verb: str) -> None:
    """The running slot's entry is neither removed nor armed."""
    host.install_factory()
    host.boot()
    control = host.control()
    with pytest.raises(RefusedError) as caught:
        control.unmark(control.booted()) if verb == "unmark" else control.arm(control.booted(), 1)
    assert caught.value.code is ErrorCode.TARGET_IS_RUNNING
    assert host.entries() == ["slot-a.conf"]


@pytest.mark.parametrize("verb", ["unmark", "arm"])
def test_no_update_while_the_running_slot_is_on_trial(host: EspHost, verb: str) -> None:
    """Until the running entry has no counter any more, the other slot, perhaps the last good one, isn't touched."""
    host.install_factory()
    host.boot()
    update(host)
    host.boot()
    control, before = host.control(), host.entries()
    with pytest.raises(LocalError, match="isn't marked good") as caught:
        control.unmark(other_slot(control)) if verb == "unmark" else control.arm(other_slot(control), 1)
    assert caught.value.code is ErrorCode.BOOT_CONTROL
    assert host.entries() == before


@pytest.mark.parametrize("verb", ["confirm", "unmark", "arm", "give_up"])
def test_nothing_is_done_while_entry_and_root_disagree(host: EspHost, verb: str) -> None:
    """When the entry that was booted is the other slot's, nothing is confirmed or changed, and it is told."""
    host.install_factory()
    host.boot()
    update(host)
    host.boot()
    host.running = "A"  # the entry of slot B was booted, and its initrd mounted A
    control, before = host.control(), host.entries()
    mine, other = control.booted(), other_slot(control)
    with pytest.raises(LocalError, match=r"slot-b\.conf of slot B, and the root is slot A's") as caught:
        getattr(control, verb)(*{"arm": (other, 1), "unmark": (other,)}.get(verb, (mine,)))
    assert caught.value.code is ErrorCode.BOOT_MISMATCH
    assert host.entries() == before


def test_an_entry_called_b_with_the_root_of_a_is_told(host: EspHost) -> None:
    """An entry whose name is one slot's and whose root is the other's stops every change until it is corrected."""
    host.install_factory()
    host.put("loader/entries/slot-b.conf", host.entry_text("A", "0.1"))
    host.boot()
    control = host.control()
    assert any("called slot B's and boots slot A's root" in note for note in control.notes())
    with pytest.raises(LocalError, match="called slot B's and boots slot A's root") as caught:
        control.unmark(other_slot(control))
    assert caught.value.code is ErrorCode.BOOT_MISMATCH


def test_another_entry_that_would_win_is_named(host: EspHost) -> None:
    """An entry of something else that sorts before both slots is named, and nothing is armed."""
    host.install_factory()
    host.put("loader/entries/aaa.conf", b"sort-key a\nversion 9\nlinux /os/linux-1\noptions root=/dev/sdb\n")
    host.facts = dataclasses.replace(host.facts, selected="slot-a.conf")
    with pytest.raises(LocalError, match=r"would pick aaa\.conf") as caught:
        update(host)
    assert caught.value.code is ErrorCode.BOOT_OUTRANKED
    assert host.entries() == ["aaa.conf", "slot-a.conf"]


@pytest.mark.parametrize(
    ("line", "variables", "told"),
    [
        ("default slot-a.conf", {}, "would pick slot-a"),
        ("default @saved", {}, "default in loader.conf is @saved"),
        ("", {"default": "slot-a*"}, "would pick slot-a"),
        ("", {"one_shot": "slot-a.conf"}, "LoaderEntryOneShot is set"),
    ],
)
def test_a_set_default_is_named(host: EspHost, line: str, variables: dict[str, str], told: str) -> None:
    """A default that the boot loader goes by instead of the counters is named, and nothing is armed."""
    host.install_factory()
    host.boot()
    host.put("loader/loader.conf", f"timeout 0\n{line}\n".encode())
    host.facts = dataclasses.replace(host.facts, **variables)
    with pytest.raises(LocalError, match=told) as caught:
        update(host)
    assert caught.value.code is ErrorCode.BOOT_OUTRANKED
    assert host.entries() == ["slot-a.conf"]


def test_a_default_that_fits_both_slots_is_fine(host: EspHost) -> None:
    """`default slot-*` leaves the choice to the counters, and an entry that would sort first otherwise has no say."""
    host.install_factory()
    host.boot()
    host.put("loader/loader.conf", b"default slot-*\n")
    host.put("loader/entries/aaa.conf", b"sort-key a\nversion 9\nlinux /os/linux-1\noptions root=/dev/sdb\n")
    update(host)
    lines = menu(Tree(host.esp), counted_names=host.counted_names)
    assert next(line.stem for line in lines if line.stem.startswith("slot-")) == "slot-b"


def test_an_esp_that_is_full_is_told(host: EspHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no room for the entry the running slot is as it was, and the error says that space is lacking."""
    host.install_factory()
    host.boot()
    monkeypatch.setattr("updated.slots.boot.esp.MountedFolder.free", lambda self: 1000)
    with pytest.raises(LocalError) as caught:
        update(host)
    assert caught.value.code is ErrorCode.NO_SPACE
    assert (host.entries(), host.next()) == (["slot-a.conf"], "A")
