"""Mounts a machine's file systems where nobody else sees them, puts its settings there, and becomes systemd-nspawn.

A program of its own, for it runs in a mount namespace of its own: whoever else makes one meanwhile (mmdebstrap does)
would get copies of the mounts, and keep the disk busy. What it is to do is in a JSON file: `mounts` (device, place,
options), `lower` and `upper` (the image's /etc and the layer above it), `files` (texts by path below /etc), `command`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def main(file: str) -> None:
    """Do what the file says; doesn't return."""
    told = json.loads(Path(file).read_text())
    for device, place, options in told["mounts"]:
        Path(place).mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", options, device, place], check=True)
    upper = Path(told["upper"])
    upper.mkdir(parents=True, exist_ok=True)
    for name, text in told["files"].items():
        make_folders(Path(told["lower"]), upper, Path(name).parent)
        (upper / name).write_text(text)
    os.execvp(told["command"][0], told["command"])


def make_folders(lower: Path, upper: Path, folder: Path) -> None:
    """Make a folder of the writable layer, with the owner and mode that the image gives it."""
    for part in [*reversed(folder.parents), folder]:
        made = upper / part
        if not made.exists():
            made.mkdir()
            if (lower / part).is_dir():
                facts = (lower / part).stat()
                os.chown(made, facts.st_uid, facts.st_gid)
                made.chmod(facts.st_mode & 0o7777)


if __name__ == "__main__":
    main(sys.argv[1])
