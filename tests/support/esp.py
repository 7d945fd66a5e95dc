"""A host that systemd-boot boots, as files: a disk with two slots, an ESP as a directory, the loader's variables."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.disks import make_disk
from tests.support.sdboot import Item, Tree, boot, next_boot
from tests.support.slots import other_slot, partuuid_of
from updated.slots.boot import Contents
from updated.slots.boot.efivars import LoaderFacts
from updated.slots.boot.esp import BootFolder, MountedFolder
from updated.slots.boot.systemd_boot import SystemdBoot
from updated.slots.layout import Layout, Slot
from updated.slots.partitions import Opener, Partitions

FILES = Contents("2.0", frozenset({"kernel", "initrd"}))
IMAGE = Contents("2.0", frozenset({"uki"}))


def make_uki(version: str, cmdline: str, kernel: bytes = b"kernel", image_id: str = "os") -> bytes:
    """Return a PE file with the sections that a boot loader reads of a unified kernel image; it wouldn't run."""
    release = f"ID=os\nIMAGE_ID={image_id}\nIMAGE_VERSION={version}\nPRETTY_NAME=OS {version}\n".encode()
    parts = {".osrel": release, ".cmdline": cmdline.encode() + b"\0", ".linux": kernel}
    head = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0"
    head += struct.pack("<HHIIIHH", 0x8664, len(parts), 0, 0, 0, 0, 0)
    table, body, at = b"", b"", len(head) + 40 * len(parts)
    for name, data in parts.items():
        table += struct.pack("<8sIIIIIIHHI", name.encode(), len(data), 0, len(data), at + len(body), 0, 0, 0, 0, 0)
        body += data
    return head + table + body


@dataclass
class EspHost:
    """One machine; `boot` is what its firmware does."""

    folder: Path
    counted_names: bool = False
    tells: bool = True  # whether the boot loader sets its variables
    facts: LoaderFacts = field(default_factory=LoaderFacts)
    running: str = "A"

    def __post_init__(self) -> None:
        self.disk = make_disk(self.folder / "disk.img", 256 * 1024)
        self.esp = self.folder / "esp"
        (self.esp / "loader/entries").mkdir(parents=True)
        (self.esp / "EFI/Linux").mkdir(parents=True)
        self.put("loader/loader.conf", b"timeout 0\n")
        self.put("loader/random-seed", bytes(range(32)))

    def partuuid(self, letter: str) -> str:
        return partuuid_of(self.disk.read_bytes(), f"USR-{letter}")

    def put(self, path: str, data: bytes) -> Path:
        target = self.esp / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target

    def install_factory(self, version: str = "1.0", *, uki: bool = False, extra: str = "quiet") -> None:
        """Put slot A's proven entry there, as an image's builder does."""
        if uki:
            self.put("EFI/Linux/slot-a.efi", make_uki(version, f"root=PARTUUID={self.partuuid('A')} {extra}"))
            return
        self.put("os/linux-1", b"kernel 1")
        self.put("os/initrd-1", b"initrd 1")
        self.put("loader/entries/slot-a.conf", self.entry_text("A", version, extra))

    def entry_text(self, letter: str, version: str, extra: str = "quiet") -> bytes:
        return (
            f"title      OS {version}\nsort-key   os\nversion    {version}\nmachine-id {uuid.UUID(int=7).hex}\n"
            f"linux      /os/linux-1\ninitrd     /os/initrd-1\n"
            f"options    root=PARTUUID={self.partuuid(letter)} ro {extra}\n"
        ).encode()

    def boot(self) -> Item:
        """Let systemd-boot pick; from then on the agent runs in that slot."""
        item = boot(self.esp, counted_names=self.counted_names)
        self.running = self.slot_of(item)
        after = f"{item.stem}+{max(item.left - 1, 0)}-{item.done + 1}{item.end}" if item.left >= 0 else item.file
        self.facts = LoaderFacts()
        if self.tells:
            path = f"/{item.folder}/{after}" if item.left >= 0 else ""
            self.facts = LoaderFacts(selected=(item.stem + item.end).lower(), count_path=path)
        return item

    def next(self) -> str:
        """Return the letter of the slot that would boot."""
        return self.slot_of(next_boot(Tree(self.esp), counted_names=self.counted_names))

    def slot_of(self, item: Item) -> str:
        named = [letter for letter in "AB" if self.partuuid(letter) in item.options]
        return named[0] if named else item.stem[-1:].upper()

    def control(self, open_disk: Opener | None = None, folder: BootFolder | None = None) -> SystemdBoot:
        """Return what the agent on the running slot has."""
        parts = Partitions(
            self.disk,
            booted_partuuids=(self.partuuid(self.running),),
            layout=Layout(type_guid=None),
            open_disk=open_disk,
        )
        folders = [folder or MountedFolder(self.esp)]
        return SystemdBoot(parts, folders=lambda: folders, facts=lambda: self.facts)

    def stage(self, control: SystemdBoot, slot: Slot, **files: bytes) -> None:
        """Put boot files where the install puts them."""
        places = control.files_of(slot)
        for name, data in files.items():
            places[name].parent.mkdir(parents=True, exist_ok=True)
            places[name].write_bytes(data)

    def entries(self) -> list[str]:
        return Tree(self.esp).listing("loader/entries") + Tree(self.esp).listing("EFI/Linux")


def update(host: EspHost, contents: Contents = FILES, tries: int = 3) -> SystemdBoot:
    """Install into the slot that doesn't run, as the agent does, and arm it."""
    control = host.control()
    slot = other_slot(control)
    control.unmark(slot)
    if "uki" in contents.files:
        root = f"root=PARTUUID={slot.partuuid}"
        host.stage(control, slot, uki=make_uki(contents.version, root, contents.version.encode()))
    else:
        host.stage(control, slot, kernel=f"kernel {contents.version}".encode(), initrd=b"initrd")
    control.arm(slot, tries, contents)
    return control


def confirm(host: EspHost) -> SystemdBoot:
    control = host.control()
    control.confirm(control.booted())
    return control
