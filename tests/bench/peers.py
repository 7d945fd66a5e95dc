"""The peers, from Debian: each installs the same image from the same HTTP server into a slot, its signature checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Cost, Watch, cpu_of, measure
from tests.bench.tools import ENV, BenchError, need, run
from tests.support.dbus import private_bus

PROGRAMS = {
    "rauc": "rauc", "mksquashfs": "squashfs-tools", "dbus-daemon": "dbus", "swupdate": "swupdate", "cpio": "cpio",
    "openssl": "openssl", "zstd": "zstd", "xdelta3": "xdelta3", "bzip2": "bzip2", "curl": "curl",
    "losetup": "mount",
}  # fmt: skip
LARGEST_BUNDLE = 1 << 32  # bytes; RAUC downloads 8 MiB unless it is told
READY_SECS = 30.0

RAUC_CONF = """[system]
compatible=bench
bootloader=custom
bundle-formats=plain
max-bundle-download-size={largest}
mountprefix={work}/mnt
statusfile={work}/status
[handlers]
bootloader-custom-backend={work}/backend
[keyring]
path={work}/cert.pem
[slot.rootfs.0]
device={running}
type=raw
bootname=A
[slot.rootfs.1]
device={slot}
type=raw
bootname=B
"""
RAUC_BACKEND = '#!/bin/sh\ncase "$1" in get-primary) echo A ;; get-state) echo good ;; esac\n'
RAUC_MANIFEST = """[update]
compatible=bench
version=2
[bundle]
format=plain
[image.rootfs]
filename=root.img
"""
SW_DESCRIPTION = """software = {{
  version = "2"; hardware-compatibility: ["#RE:.*"];
  images: ({{ filename = "root.zst"; type = "raw"; device = "{slot}"; compressed = "zstd";
    installed-directly = true; sha256 = "{sha256}"; }});
}}
"""


@dataclass(frozen=True)
class Desk:
    """Where the peers' artefacts are made: a served directory, a place for the rest, key and certificate in it."""

    served: Path
    work: Path

    @property
    def cert(self) -> Path:
        return self.work / "cert.pem"

    @property
    def key(self) -> Path:
        return self.work / "key.pem"


def open_desk(served: Path, work: Path) -> Desk:
    """See that the peers are there, and make a key of RSA 2048 for them.

    Raises:
        BenchError: some are missing.
    """
    need(PROGRAMS)
    work.mkdir(parents=True, exist_ok=True)
    desk = Desk(served, work)
    usage = "extendedKeyUsage=emailProtection,codeSigning"
    run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=bench",
         "-addext", usage, "-keyout", str(desk.key), "-out", str(desk.cert)])  # fmt: skip
    return desk


def zstd9(image: Path, out: Path) -> int:
    """Compress a whole image as `zstd -9` does; return the bytes. Made once for an image."""
    if not out.exists() or out.stat().st_mtime < image.stat().st_mtime:
        part = out.with_suffix(".part")
        run(["zstd", "-q", "-f", "-9", str(image), "-o", str(part)])
        part.rename(out)
    return out.stat().st_size


# ---- rauc


def make_bundle(desk: Desk, image: Path, name: str) -> Path:
    """Make a signed plain bundle, compressed by zstd."""
    bundle = desk.served / name
    bundle.unlink(missing_ok=True)  # of another key
    content = desk.work / "bundle"
    content.mkdir()
    (content / "manifest.raucm").write_text(RAUC_MANIFEST)
    shutil.copyfile(image, content / "root.img")
    sign = [f"--cert={desk.cert}", f"--key={desk.key}"]
    run(["rauc", "bundle", *sign, "--mksquashfs-args=-comp zstd -Xcompression-level 9", str(content), str(bundle)])
    shutil.rmtree(content)
    return bundle


class Rauc:
    """A running `rauc service`."""

    def __init__(self, service: subprocess.Popen[bytes], address: str) -> None:
        self._service, self._env = service, {"DBUS_SYSTEM_BUS_ADDRESS": address}

    def install(self, url: str) -> Cost:
        """Run `rauc install`; what it costs is the service's and the client's."""
        before = cpu_of(self._service.pid)
        with Watch(self._service.pid) as watch:
            client = measure(["rauc", "install", url], env=self._env)
        return Cost(client.wall, client.cpu + cpu_of(self._service.pid) - before, max(client.rss_mib, watch.peak_mib))


@contextmanager
def rauc_service(desk: Desk, running: Path, slot: Path) -> Iterator[Rauc]:
    """Run `rauc service` on a bus of its own."""
    work = desk.work
    (work / "mnt").mkdir(exist_ok=True)
    (work / "backend").write_text(RAUC_BACKEND)
    (work / "backend").chmod(0o755)
    (work / "system.conf").write_text(RAUC_CONF.format(work=work, running=running, slot=slot, largest=LARGEST_BUNDLE))
    with private_bus(work / "bus") as address, (work / "rauc.log").open("wb") as log:
        env = {**ENV, "DBUS_SYSTEM_BUS_ADDRESS": address, "TMPDIR": str(work)}
        argv = ["rauc", f"--conf={work}/system.conf", "--override-boot-slot=A", "service"]
        with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as service:
            try:
                _wait_for_rauc(service, address)
                yield Rauc(service, address)
            finally:
                service.terminate()


def _wait_for_rauc(service: subprocess.Popen[bytes], address: str) -> None:
    ask = ["dbus-send", f"--bus={address}", "--print-reply", "--dest=org.freedesktop.DBus", "/"]
    ask += ["org.freedesktop.DBus.GetNameOwner", "string:de.pengutronix.rauc"]
    end = time.monotonic() + READY_SECS
    while subprocess.run(ask, env=ENV, capture_output=True, check=False).returncode:
        if service.poll() is not None or time.monotonic() > end:
            raise BenchError("rauc service doesn't come up")
        time.sleep(0.1)


# ---- swupdate


def make_swu(desk: Desk, packed: Path, slot: Path, name: str) -> Path:
    """Make a signed .swu of a zstd-compressed image that is installed directly into a slot."""
    work = desk.work / "swu"
    work.mkdir(exist_ok=True)
    (work / "root.zst").unlink(missing_ok=True)
    (work / "root.zst").symlink_to(packed.resolve())
    sha256 = hashlib.sha256(packed.read_bytes()).hexdigest()
    (work / "sw-description").write_text(SW_DESCRIPTION.format(slot=slot, sha256=sha256))
    run(["openssl", "cms", "-sign", "-in", f"{work}/sw-description", "-out", f"{work}/sw-description.sig", "-signer",
         str(desk.cert), "-inkey", str(desk.key), "-outform", "DER", "-nosmimecap", "-binary"])  # fmt: skip
    names = "sw-description\nsw-description.sig\nroot.zst\n"
    out = desk.served / name
    with out.open("wb") as file:
        subprocess.run(
            ["cpio", "--quiet", "-L", "-o", "-H", "crc"],
            cwd=work,
            input=names.encode(),
            stdout=file,
            env=ENV,
            check=True,
        )
    return out


def swupdate(desk: Desk, url: str) -> Cost:
    """Download and install a .swu."""
    return measure(["swupdate", "-l", "1", "-k", str(desk.cert), "-H", "bench:1", "-d", f"-u {url}"])


# ---- plain tools


def read_back(slot: Path) -> Cost:
    """Hash a slot from the medium, as cheaply as tools can: what an install here ends with, and no peer does."""
    with slot.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return measure(["openssl", "dgst", "-sha256", str(slot)])


def bzip2_apply(url: str, slot: Path) -> Cost:
    """Download a stream, decompress it on one thread, write it and flush: the floor of a version 1 install."""
    pipe = f"curl -fsS '{url}' | bzip2 -dc | dd of='{slot}' bs=1M iflag=fullblock conv=fsync,notrunc status=none"
    return measure(["bash", "-o", "pipefail", "-c", pipe])


def xdelta3(old: Path, new: Path, out: Path) -> tuple[Cost, int]:
    """Make a delta of the whole image at level 9, the whole old image in its window; return cost and bytes."""
    out.unlink(missing_ok=True)
    cost = measure(["xdelta3", "-e", "-9", "-f", "-B", str(old.stat().st_size), "-s", str(old), str(new), str(out)])
    size = out.stat().st_size
    out.unlink()
    return cost, size
