"""The formats that the image recipe writes itself, read by the programs that they are for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fixtures.image.cpio import make_archive
from fixtures.image.esp import empty_esp, fill
from fixtures.image.grub import environment_block, read_environment
from fixtures.image.programs import output
from fixtures.image.uki import make_uki
from tests.support.vm.qemu import has_kvm


def test_archive_is_read_by_cpio(tmp_path: Path) -> None:
    """An initial RAM file system has its files, links and folders, and the same bytes each time."""
    program = tmp_path / "program"
    program.write_bytes(b"#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    archive = make_archive({"bin/program": program, "bin/link": "program", "lib/text": b"odd"})
    assert archive == make_archive({"lib/text": b"odd", "bin/link": "program", "bin/program": program})
    subprocess.run(["busybox", "cpio", "-i"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "bin/link").resolve().read_bytes() == program.read_bytes()
    assert (tmp_path / "bin/program").stat().st_mode & 0o111
    assert (tmp_path / "lib/text").read_bytes() == b"odd"


def test_environment_block_is_grubs(tmp_path: Path) -> None:
    """grub-editenv reads what we write, and we read what it writes."""
    block = tmp_path / "grubenv"
    block.write_bytes(environment_block({"ORDER": "B A", "A_OK": "1"}))
    assert output("grub-editenv", block, "list").splitlines() == ["ORDER=B A", "A_OK=1"]
    output("grub-editenv", block, "set", "A_TRY=1")
    assert read_environment(block.read_bytes()) == {"ORDER": "B A", "A_OK": "1", "A_TRY": "1"}


def test_unified_image_has_what_it_was_made_of(tmp_path: Path) -> None:
    """Kernel, initrd and command line come out of a unified kernel image as they went in."""
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(b"K" * 70_001)
    initrd.write_bytes(b"I" * 5_003)
    image = make_uki(kernel, initrd, "quiet roothash=abc", tmp_path / "image.efi", version="1.0")
    for section, content in ((".linux", kernel.read_bytes()), (".initrd", initrd.read_bytes())):
        output("objcopy", "-O", "binary", f"--only-section={section}", image, tmp_path / "section")
        assert (tmp_path / "section").read_bytes()[: len(content)] == content
    output("objcopy", "-O", "binary", "--only-section=.cmdline", image, tmp_path / "section")
    assert (tmp_path / "section").read_bytes().rstrip(b"\0") == b"quiet roothash=abc"


def test_esp_has_its_files(tmp_path: Path) -> None:
    """A file of the ESP lies in its folder."""
    esp = fill(empty_esp(tmp_path / "esp"), {"loader/entries/a.conf": "one", "EFI/BOOT/B.EFI": "two"})
    assert output("mtype", "-i", esp, "::loader/entries/a.conf") == "one"
    assert output("mtype", "-i", esp, "::EFI/BOOT/B.EFI") == "two"


def test_kvm_needs_device_and_processor(tmp_path: Path) -> None:
    """A device without the processor's flag is a paravirtual host's: there KVM is left alone."""
    device, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    device.touch()
    for flags, works in (("fpu vmx sse", True), ("fpu svm", True), ("fpu sse vmxx", False)):
        cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
        assert has_kvm(device, cpuinfo) == works
    assert not has_kvm(tmp_path / "none", cpuinfo)
