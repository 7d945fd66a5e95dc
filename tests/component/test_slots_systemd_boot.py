"""systemd-boot's entries on an ESP, booted by an independent model of systemd-boot's rule."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.esp import FILES, IMAGE, EspHost, confirm, update
from tests.support.slots import other_slot
from updated.errors import ErrorCode, LocalError
from updated.slots.boot import Contents


@pytest.fixture(params=["names with counters", "names without"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> EspHost:
    """A host that runs from slot A, confirmed; both ways in which systemd-boot's versions compare names."""
    return EspHost(tmp_path, counted_names=request.param == "names with counters")


@pytest.mark.parametrize("uki", [False, True])
def test_an_update_is_tried_confirmed_and_stays(host: EspHost, uki: bool) -> None:
    """The armed slot boots next; once confirmed it has one plain entry, which boots ever after."""
    host.install_factory(uki=uki)
    assert host.boot().stem == "slot-a"
    update(host, IMAGE if uki else FILES)
    assert host.next() == "B"
    item = host.boot()
    assert (host.slot_of(item), item.left) == ("B", 3)
    confirm(host)
    end = ".efi" if uki else ".conf"
    assert host.entries() == [f"slot-a{end}", f"slot-b{end}"]
    assert [host.slot_of(host.boot()) for _ in range(3)] == ["B", "B", "B"]


@pytest.mark.parametrize("uki", [False, True])
def test_a_slot_that_never_speaks_is_given_up(host: EspHost, uki: bool) -> None:
    """After as many boots as it was armed for the old slot comes back, entry and root together, and stays."""
    host.install_factory(uki=uki)
    host.boot()
    update(host, IMAGE if uki else FILES, tries=2)
    assert [host.slot_of(host.boot()) for _ in range(5)] == ["B", "B", "A", "A", "A"]
    control = host.control()
    assert [(slot.tries, slot.successful, slot.bootable) for slot in control.slots()] == [
        (0, True, True),
        (0, False, False),
    ]
    assert control.slots()[1].priority > 0


@pytest.mark.parametrize("uki", [False, True])
def test_an_older_release_is_armed_and_led_back_from(host: EspHost, uki: bool) -> None:
    """A release that sorts below the running one is booted all the same, and if it fails the running one comes back."""
    host.install_factory("5.0", uki=uki)
    host.boot()
    older = dataclasses.replace(IMAGE if uki else FILES, version="4.0")
    update(host, older, tries=2)
    assert host.control().booted().successful
    assert [host.slot_of(host.boot()) for _ in range(4)] == ["B", "B", "A", "A"]
    confirm(host)
    end = ".efi" if uki else ".conf"
    assert f"slot-a{end}" in host.entries()
    update(host, dataclasses.replace(older, version="6.0"))
    assert host.next() == "B"


def test_an_older_release_that_proves_itself_stays(host: EspHost) -> None:
    """Once an older release is confirmed it boots first, and what stood back for it can be gone back to by hand."""
    host.install_factory("5.0")
    host.boot()
    update(host, dataclasses.replace(FILES, version="4.0"))
    host.boot()
    control = confirm(host)
    assert [host.slot_of(host.boot()) for _ in range(2)] == ["B", "B"]
    newer = other_slot(control)
    assert (newer.successful, newer.bootable) == (True, True)
    control.arm(newer, 1)
    assert [host.slot_of(host.boot()) for _ in range(3)] == ["A", "B", "B"]


def test_going_back_by_hand(host: EspHost) -> None:
    """The old slot, still proven, is armed as it is, boots, and is led back from unless it is confirmed."""
    host.install_factory()
    host.boot()
    update(host)
    host.boot()
    control = confirm(host)
    control.arm(other_slot(control), 1)
    assert [host.slot_of(host.boot()) for _ in range(3)] == ["A", "B", "B"]
    confirm(host)
    control = host.control()
    control.arm(other_slot(control), 1)
    assert host.slot_of(host.boot()) == "A"
    confirm(host)
    assert [host.slot_of(host.boot()) for _ in range(2)] == ["A", "A"]


def test_a_trial_is_given_up(host: EspHost) -> None:
    """`give_up` leads back at once, also when systemd's own unit took the counter off before the gate had ended."""
    host.install_factory()
    for blessed in (False, True):
        host.boot()
        assert host.running == "A"
        update(host)
        assert host.slot_of(host.boot()) == "B"
        if blessed:
            (host.esp / "loader/entries/slot-b+2-1.conf").rename(host.esp / "loader/entries/slot-b.conf")
        control = host.control()
        control.give_up(control.booted())
        assert host.next() == "A"
        assert host.entries() == ["slot-a.conf", "slot-b+0-1.conf"]


def test_a_trial_is_not_given_up_without_a_way_back(host: EspHost) -> None:
    """`give_up` writes nothing while the other slot isn't proven."""
    host.install_factory()
    host.boot()
    control, before = host.control(), host.entries()
    with pytest.raises(LocalError, match="isn't proven") as caught:
        control.give_up(control.booted())
    assert caught.value.code is ErrorCode.BOOT_CONTROL
    assert host.entries() == before


def test_what_systemd_blessed_is_not_blessed_twice(host: EspHost) -> None:
    """An entry that systemd's own unit took the counter off is left as it is: not a byte or a date changes."""
    host.install_factory()
    host.boot()
    update(host)
    host.boot()
    plain = (host.esp / "loader/entries/slot-b+2-1.conf").rename(host.esp / "loader/entries/slot-b.conf")
    before = plain.stat()
    confirm(host)
    assert (plain.stat().st_mtime_ns, plain.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_an_entry_with_and_one_without_counter_become_one(host: EspHost) -> None:
    """Where a renaming was cut and left both names, the confirmed slot has the plain one only afterwards."""
    host.install_factory()
    text = (host.esp / "loader/entries/slot-a.conf").read_bytes()
    host.put("loader/entries/slot-a+1-2.conf", text)
    host.boot()
    assert any("several entries" in note for note in host.control().notes())
    confirm(host)
    assert host.entries() == ["slot-a.conf"]


def test_without_a_word_from_the_boot_loader(tmp_path: Path) -> None:
    """With no variable of the boot loader, LoaderBootCountPath among them, the agent takes the counter off itself."""
    host = EspHost(tmp_path, tells=False)
    host.install_factory()
    host.boot()
    update(host)
    host.boot()
    notes = " ".join(host.control().notes())
    assert "doesn't tell which entry it booted" in notes
    assert "the agent takes it off itself" in notes
    confirm(host)
    assert "slot-b.conf" in host.entries()


def test_the_entry_is_made_of_the_running_ones(host: EspHost) -> None:
    """Title, version, files and PARTUUID are the new slot's; every other option and key is the running entry's."""
    host.install_factory(extra='quiet foo="a b" systemd.machine_id=1')
    host.boot()
    update(host)
    text = (host.esp / "loader/entries/slot-b+3.conf").read_text()
    assert text == (
        "title OS 2.0\nsort-key os\nversion 2.0\nmachine-id 00000000000000000000000000000007\n"
        "linux /updated/slot-b/linux\ninitrd /updated/slot-b/initrd\n"
        f'options root=PARTUUID={host.partuuid("B")} ro quiet foo="a b" systemd.machine_id=1\n'
    )


def test_the_root_hash_is_the_release_s(host: EspHost) -> None:
    """`roothash=` has the release's value; a release without one, or one where the entry has none, gets no entry."""
    host.install_factory(extra=f"roothash={'0' * 64} quiet")
    host.boot()
    update(host, dataclasses.replace(FILES, root_hash="ab" * 32))
    assert f"roothash={'ab' * 32} quiet" in (host.esp / "loader/entries/slot-b+3.conf").read_text()
    with pytest.raises(LocalError, match="options have a root hash, and the release has none") as caught:
        update(host)
    assert caught.value.code is ErrorCode.BOOT_ENTRY
    assert host.entries() == ["slot-a.conf"]


def test_a_root_hash_that_nothing_would_check_is_refused(host: EspHost) -> None:
    """A release with a root hash isn't booted unverified on a host whose entries name none."""
    host.install_factory()
    host.boot()
    with pytest.raises(LocalError, match="no roothash= or usrhash="):
        update(host, dataclasses.replace(FILES, root_hash="ab" * 32))
    assert host.entries() == ["slot-a.conf"]


@pytest.mark.parametrize("version", ["2.0\noptions init=/bin/sh", "", "2" * 200, "2\x1b[0m"])
def test_a_version_can_not_smuggle_a_line_in(host: EspHost, version: str) -> None:
    """A version that would begin a line of its own, or is no text, makes no entry."""
    host.install_factory()
    host.boot()
    with pytest.raises(LocalError, match="can't be written into a boot entry") as caught:
        update(host, dataclasses.replace(FILES, version=version))
    assert caught.value.code is ErrorCode.BOOT_ENTRY
    assert host.entries() == ["slot-a.conf"]


@pytest.mark.parametrize("root", ["root=/dev/sda2", "root=LABEL=os", "rootfstype=ext4"])
def test_an_entry_that_names_no_root_is_no_template(host: EspHost, root: str) -> None:
    """Entry and root fall back together: where the running entry names its root by no partition, nothing is armed."""
    host.install_factory()
    host.put("loader/entries/slot-a.conf", f"version 1\nlinux /os/linux-1\noptions {root} ro\n".encode())
    host.boot()
    with pytest.raises(LocalError, match="PARTUUID nor by PARTLABEL nor by a root hash"):
        update(host)
    assert host.entries() == ["slot-a.conf"]


def test_unmarking_takes_every_way_into_the_slot_away(host: EspHost) -> None:
    """Entries of the other slot under any name go first, then files that only they named; what else is there stays."""
    host.install_factory()
    host.boot()
    update(host)
    host.put("loader/entries/debian-old.conf", host.entry_text("B", "0.9").replace(b"linux-1", b"linux-0"))
    host.put("os/linux-0", b"kernel 0")
    host.put("loader/entries/memtest.conf", b"title memtest\nefi /memtest.efi\n")
    host.put("memtest.efi", b"MZ")
    host.put("updated/slot-b/linux.updated-new", b"")
    seed = (host.esp / "loader/random-seed").read_bytes()
    control = host.control()
    stale = {str(path.relative_to(host.esp)) for path in control.stale_of(other_slot(control))}
    before = {str(path.relative_to(host.esp)) for path in host.esp.rglob("*") if path.is_file()}
    control.unmark(other_slot(control))
    assert host.entries() == ["memtest.conf", "slot-a.conf"]
    assert stale == before - {str(path.relative_to(host.esp)) for path in host.esp.rglob("*") if path.is_file()}
    left = sorted(str(path.relative_to(host.esp)) for path in host.esp.rglob("*") if path.is_file())
    assert left == [
        "loader/entries/memtest.conf",
        "loader/entries/slot-a.conf",
        "loader/loader.conf",
        "loader/random-seed",
        "memtest.efi",
        "os/initrd-1",
        "os/linux-1",
        "updated/slot-b/linux.updated-new",
    ]
    assert (host.esp / "loader/random-seed").read_bytes() == seed
    assert (host.esp / "loader/loader.conf").read_bytes() == b"timeout 0\n"


def test_a_reset_ends_standing_back(host: EspHost) -> None:
    """When an older release that was armed is given up before it ran, the running slot's entry is plain again."""
    host.install_factory("5.0")
    host.boot()
    control = update(host, dataclasses.replace(FILES, version="4.0"))
    assert "slot-a+0.conf" in host.entries()
    control.unmark(other_slot(control))
    assert host.entries() == ["slot-a.conf"]


def test_files_of_the_running_slot_are_what_its_entry_names(host: EspHost) -> None:
    """A delta of a kernel is made of the file that runs, wherever the image's builder put it."""
    host.install_factory()
    host.boot()
    control = host.control()
    own, other = control.files_of(control.booted()), control.files_of(other_slot(control))
    assert (own["kernel"], own["initrd"]) == (host.esp / "os/linux-1", host.esp / "os/initrd-1")
    assert {name: str(path.relative_to(host.esp)) for name, path in other.items()} == {
        "kernel": "updated/slot-b/linux",
        "initrd": "updated/slot-b/initrd",
        "uki": "updated/slot-b/uki.efi",
    }


def test_updates_go_on_for_ever(host: EspHost) -> None:
    """Twenty updates, up and down in version and from files to images and back, each boot what was armed."""
    host.install_factory()
    host.boot()
    versions = ["2.0", "3.0", "2.5", "10.0", "1.0"]
    for turn in range(20):
        want = "AB"["BA".index(host.running)]
        update(host, Contents(versions[turn % 5], frozenset({"kernel"})))
        assert host.slot_of(host.boot()) == want, turn
        confirm(host)
        assert host.slot_of(host.boot()) == want, turn
        assert len(host.entries()) == 2, host.entries()


@pytest.mark.parametrize("uki", [False, True])
def test_an_empty_file_in_the_place_of_an_entry_is_written_over(host: EspHost, uki: bool) -> None:
    """A name that a cut left without its content is told, takes no entry's place, and goes with the next change."""
    host.install_factory(uki=uki)
    host.boot()
    plain = "EFI/Linux/slot-b.efi" if uki else "loader/entries/slot-b.conf"
    host.put(plain, b"")
    assert any("slot-b" in note and "can't be used" in note for note in host.control().notes())
    control = host.control()
    control.unmark(other_slot(control))
    assert not (host.esp / plain).exists()
    update(host, IMAGE if uki else FILES)
    assert host.slot_of(host.boot()) == "B"
    host.put(plain, b"")
    confirm(host)
    assert (host.esp / plain).stat().st_size > 0
    assert [host.slot_of(host.boot()) for _ in range(2)] == ["B", "B"]
