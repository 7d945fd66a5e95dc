"""The real GRUB as the boot loader of a test: grub-emu runs the shipped script on an ext4 image and saves into it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.disks import ENV, make_disk
from tests.support.slots import partuuid_of
from updated.slots.boot.envfile import EnvFile, beside_of
from updated.slots.boot.grubenv import GrubEnv
from updated.slots.layout import Layout
from updated.slots.partitions import Partitions

SCRIPT = Path(__file__).parents[2] / "fixtures/grub/slots.cfg"
TAIL = 'echo "PICKED=$slot=ORDER=$ORDER=PROVEN=$PROVEN=END"\nexit\n'
# RAUC's own rule in its own variables, written for this test: it knows no proven slot, marks what it passes as tried,
# and with nothing left makes good slots fresh again and boots a rescue system
RAUC = """set ORDER="A B"
set A_OK=0
set B_OK=0
set A_TRY=0
set B_TRY=0
load_env
set slot=""
for name in $ORDER; do
  if [ "$slot" = "" ]; then
    if [ "$name" = "A" ]; then
      set ok=$A_OK
      set try=$A_TRY
      set A_TRY=1
    fi
    if [ "$name" = "B" ]; then
      set ok=$B_OK
      set try=$B_TRY
      set B_TRY=1
    fi
    if [ "$ok" -eq 1 -a "$try" -eq 0 ]; then
      set slot=$name
    fi
  fi
done
if [ "$slot" = "" ]; then
  set slot=rescue
  if [ "$A_OK" -eq 1 ]; then
    set A_TRY=0
  fi
  if [ "$B_OK" -eq 1 ]; then
    set B_TRY=0
  fi
fi
save_env A_TRY B_TRY
"""


def run(*argv: str | Path) -> str:
    return subprocess.run(list(map(str, argv)), env=ENV, check=True, capture_output=True, text=True).stdout


def edit(block: Path, *words: str) -> str:
    """Run GRUB's own tool on a block."""
    return run("grub-editenv", block, *words)


def make_image(tree: Path, image: Path) -> None:
    """Make an ext4 image of a tree, without a journal, that GRUB can save an environment into."""
    size = 2 * 1024 * 1024 + 3 * sum(max(4096, path.stat().st_size) for path in tree.rglob("*"))
    with image.open("xb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-b", "1024", "-O", "^has_journal", "-d", tree, image)


def start(image: Path) -> bytes:
    """Run the real GRUB with `/grub/grub.cfg` of an image, and return what it said."""
    devices = image.with_name("device.map")
    devices.write_text(f"(hd0) {image}\n")
    command = ["grub-emu", "-m", str(devices), "-r", "hd0", "-d", "/grub"]
    done = subprocess.run(
        command, env={**ENV, "TERM": "vt100"}, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True
    )
    return done.stdout


def picks_of(work: Path, blocks: Sequence[tuple[bytes, bytes]], boots: int) -> list[str]:
    """Return which slots the shipped script picks in consecutive boots, for each pair of blocks: `BAA`, say.

    Args:
        work: an empty folder.
        blocks: the environment block and the one of the proven slot.
        boots: how many boots each pair is good for, none of which is confirmed.
    """
    tree = work / "tree"
    (tree / "grub").mkdir(parents=True)
    lines = []
    for number, (block, proven) in enumerate(blocks):
        case = tree / f"c{number}"
        case.mkdir()
        (case / "grubenv").write_bytes(block)
        (case / "grubenv.proven").write_bytes(proven)
        lines.append(f"set prefix=(hd0)/c{number}")
        lines += [f'source (hd0)/grub/slots.cfg\necho "PICKED{number}={boot}=$slot="' for boot in range(boots)]
    (tree / "grub/slots.cfg").write_text(SCRIPT.read_text())
    (tree / "grub/grub.cfg").write_text("\n".join([*lines, "exit", ""]))
    make_image(tree, work / "boot.img")
    said = start(work / "boot.img")
    found = {(int(n), int(b)): slot.decode() for n, b, slot in re.findall(rb"PICKED(\d+)=(\d+)=(\w*)=", said)}
    return ["".join(found[number, boot] for boot in range(boots)) for number in range(len(blocks))]


@dataclass
class GrubHost:
    """One machine: two slots on a disk, GRUB's directory beside; `boot` is what its firmware and GRUB do."""

    folder: Path
    script: str = field(default_factory=SCRIPT.read_text)
    running: str = "A"

    def __post_init__(self) -> None:
        self.disk = make_disk(self.folder / "disk.img", 256 * 1024)
        self.grub = self.folder / "grub"
        self.grub.mkdir()
        self.block = self.grub / "grubenv"
        edit(self.block, "create")

    def factory(self) -> None:
        """Set the variables as an image's builder does: A is good, B is empty."""
        edit(self.block, "set", "ORDER=A B", "A_OK=1", "A_TRY=0", "B_OK=0", "B_TRY=0")

    def control(self) -> GrubEnv:
        partuuid = partuuid_of(self.disk.read_bytes(), f"USR-{self.running}")
        parts = Partitions(self.disk, booted_partuuids=(partuuid,), layout=Layout(type_guid=None))
        return GrubEnv(parts, EnvFile(self.block), EnvFile(beside_of(self.block)))

    def boot(self) -> str:
        """Let GRUB pick a slot and save its environment; return the slot's letter."""
        work = self.folder / "emu"
        shutil.rmtree(work, ignore_errors=True)
        (work / "tree/grub").mkdir(parents=True)
        for path in self.grub.iterdir():
            shutil.copy(path, work / "tree/grub")
        (work / "tree/grub/grub.cfg").write_text(self.script + TAIL)
        image = work / "boot.img"
        make_image(work / "tree", image)
        said = start(image)
        found = re.findall(rb"PICKED=(\w*)=", said)
        if not found:
            raise AssertionError(f"GRUB said: {said[-800:]!r}")
        self._take_back(image)
        self.running = found[-1].decode()
        return self.running

    def _take_back(self, image: Path) -> None:
        """Put the block that GRUB saved back where the host has it, in place."""
        out = image.with_name("grubenv")
        run("debugfs", "-R", f"dump /grub/grubenv {out}", image)
        if self.block.exists():
            fd = os.open(self.block, os.O_WRONLY | os.O_TRUNC)
            with os.fdopen(fd, "wb") as file:
                file.write(out.read_bytes())

    def variables(self) -> dict[str, str]:
        """Return the variables as GRUB's own tool reads them."""
        return dict(line.split("=", 1) for line in edit(self.block, "list").splitlines())

    def confirm(self) -> GrubEnv:
        control = self.control()
        control.confirm(control.booted())
        return control
