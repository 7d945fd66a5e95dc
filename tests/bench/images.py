"""The benchmark's work: two ext4 images of a real Debian root, a release and the point release after it.

The first takes its packages from the distribution's release alone, the second from its updates and security suites too,
with two packages more, so they differ as a release and its successor do. Mirrors come from the host's own apt.
Everything else is pinned: times, UUID, hash seed; the order of files is the tree's own. The same archive therefore
gives nearly the same images on every machine (their hashes are printed below the table); a second run finds them in
the cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.tools import ENV, BenchError, need, run

MIB = 1024 * 1024
IMAGE_BYTES = 768 * MIB
EPOCH = 1_700_000_000  # every file and the file system are as old as that
SEEDS = ("6b1f7a0e-1d0d-4d5c-9a43-0d4b1c2c7f01", "a2c6b2de-5f0e-4f43-8f3e-0b0d5f6a7c02")  # UUID, hash seed
DOCKER = "docker" + ".io"  # Debian's package of that name; the registry of that name is never asked
# a host for containers: a kernel without firmware, what runs them, and what an operator wants to find there
PACKAGES = (
    "systemd-sysv", "dbus", "openssh-server", "linux-image-cloud-amd64", "python3", "git", "curl", "ca-certificates",
    "iproute2", "vim-tiny", DOCKER, "tcpdump", "nftables", "less", "sudo", "bash-completion", "locales",
)  # fmt: skip
NEW_PACKAGES = ("jq", "htop")  # of the point release
ARCHIVE_FORMAT = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(LABEL)"
UNWANTED = ("/usr/share/man/*", "/usr/share/doc/*")
# what a host makes for itself; the kernel stays
LEFT_OUT = ("./dev/*", "./boot/initrd.img-*", "./etc/ssh/ssh_host_*", "./var/log/*", "./var/cache/ldconfig/*")
GENERATION = "3"  # part of the cache's key: what makes images differ must change it


@dataclass(frozen=True)
class Pair:
    """The two images, and what is known of them."""

    old: Path
    new: Path
    facts: dict[str, object]


@dataclass(frozen=True)
class Archive:
    """The host's own Debian mirrors, as lines of apt's one-line format."""

    codename: str
    release: tuple[str, ...]
    updates: tuple[str, ...]  # with the point release's suites, the release's own first


def pair(directory: Path) -> Pair:
    """Return both images, made when they aren't in the directory yet.

    Raises:
        BenchError: a program or a mirror is missing, or the packages don't fit.
    """
    directory.mkdir(parents=True, exist_ok=True)
    recipe = (GENERATION, PACKAGES, NEW_PACKAGES, UNWANTED, LEFT_OUT, IMAGE_BYTES, SEEDS, EPOCH)
    wanted = hashlib.sha256(repr(recipe).encode()).hexdigest()
    note = directory / "images.json"
    old, new = directory / "release.img", directory / "point-release.img"
    known = json.loads(note.read_text()) if note.exists() else {}
    if known.get("made_from") == wanted and old.exists() and new.exists():
        return Pair(old, new, known)
    need({"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs", "debugfs": "e2fsprogs", "tar": "tar"})
    archive = read_archive()
    packages = [
        make_image(archive.codename, archive.release, PACKAGES, old),
        make_image(archive.codename, archive.updates, PACKAGES + NEW_PACKAGES, new),
    ]
    facts = {"made_from": wanted, **describe(packages, old, new)}
    note.write_text(json.dumps(facts, indent=1) + "\n")
    return Pair(old, new, facts)


def read_archive() -> Archive:
    """Ask apt where this host gets Debian from.

    Raises:
        BenchError: it doesn't.
    """
    listed = run(["apt-get", "indextargets", "--format", ARCHIVE_FORMAT, "Created-By: Packages"]).stdout
    rows = [line.split("|") for line in sorted(set(listed.splitlines()))]
    main = [row for row in rows if row[2] == "main" and row[3].startswith("Debian")]
    plain = sorted({row[1] for row in main if row[3] == "Debian"}, key=len)
    if not plain or not any("-security" in row[1] for row in main):
        raise BenchError("apt here knows no Debian release with its security suite; the images are made from both")
    codename = plain[0]
    lines = {suite: f"deb {uri} {suite} main" for uri, suite, _, _ in main if suite.startswith(codename)}
    return Archive(codename, (lines[codename],), tuple(lines.values()))


def make_image(codename: str, lines: Sequence[str], packages: Sequence[str], image: Path) -> dict[str, str]:
    """Make one image; return its packages' versions."""
    work = image.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    tar, tree, part = work / "root.tar", work / "root", work / "image"
    print(f"making {image.name} from {len(lines)} suite(s) of Debian {codename}: minutes", flush=True)
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
    command += ["--aptopt=Acquire::Check-Valid-Until=false", *(f"--dpkgopt=path-exclude={path}" for path in UNWANTED)]
    run([*command, codename, str(tar), *lines], {"SOURCE_DATE_EPOCH": str(EPOCH)})
    tree.mkdir()
    run(["tar", "-C", str(tree), "--numeric-owner", *(f"--exclude={path}" for path in LEFT_OUT), "-xpf", str(tar)])
    tar.unlink()
    status = (tree / "var/lib/dpkg/status").read_text()
    make_ext4(tree, part)
    part.rename(image)
    shutil.rmtree(work)
    return versions(status)


def make_ext4(tree: Path, image: Path) -> None:
    """Put a tree into an ext4 image whose bytes depend on the tree alone.

    Raises:
        BenchError: it doesn't fit.
    """
    with image.open("xb") as file:
        file.truncate(IMAGE_BYTES)
    uuid, seed = SEEDS
    options = ["-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4", "-L", "BENCH", "-U", uuid]
    options += ["-E", f"hash_seed={seed},root_owner=0:0", "-d", str(tree)]
    run(["mkfs.ext4", *options, str(image)], {"E2FSPROGS_FAKE_TIME": str(EPOCH)})
    pin_times(image)


def pin_times(image: Path) -> None:
    """Set each inode's change time: mke2fs takes it from the tree, where nobody can set it."""
    with subprocess.Popen(
        ["dumpe2fs", "-h", str(image)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENV
    ) as child:
        assert child.stdout is not None
        facts = dict(line.split(":", 1) for line in child.stdout if ":" in line)
    used = int(facts["Inode count"]) - int(facts["Free inodes"])
    first = int(facts["First inode"])
    # mke2fs hands inodes out one after the other, so the used ones are the first ones
    numbers = [2, *range(first, used + 1)]
    script = "".join(f"sif <{number}> {field} @{EPOCH}\n" for number in numbers for field in ("ctime", "atime"))
    fake = {**ENV, "E2FSPROGS_FAKE_TIME": str(EPOCH)}
    subprocess.run(
        ["debugfs", "-w", "-f", "-", str(image)], input=script, text=True, env=fake, check=True, capture_output=True
    )


def versions(status: str) -> dict[str, str]:
    """Return the versions of dpkg's packages by name."""
    found, name = {}, ""
    for line in status.splitlines():
        if line.startswith("Package: "):
            name = line.removeprefix("Package: ")
        elif line.startswith("Version: "):
            found[name] = line.removeprefix("Version: ")
    return found


def describe(packages: Sequence[dict[str, str]], old: Path, new: Path) -> dict[str, object]:
    """Return the figures that tell what work this is: packages, likeness in blocks of 4 KiB."""
    before, after = packages
    changed = sum(before.get(name) != version for name, version in after.items())
    hashes = set[bytes]()
    used_old = used_new = same_place = anywhere = 0
    zero = bytes(4096)
    with old.open("rb") as first, new.open("rb") as second:
        while block := first.read(4096):
            hashes.add(hashlib.blake2b(block, digest_size=12).digest())
            used_old += block != zero
        first.seek(0)
        while block := second.read(4096):
            there = first.read(4096)
            if block == zero:
                continue
            used_new += 1
            same_place += block == there
            anywhere += hashlib.blake2b(block, digest_size=12).digest() in hashes
    return {
        "packages": [len(before), len(after)],
        "packages_changed_or_new": changed,
        "mib_not_zero": [round(used_old / 256), round(used_new / 256)],
        "same_place_percent": round(100 * same_place / used_new, 1),
        "anywhere_percent": round(100 * anywhere / used_new, 1),
        "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in (old, new)],
    }
