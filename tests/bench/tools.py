"""Programs that the benchmark needs: found, or installed by apt, or named."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

ENV = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
SHOWN = 3000  # characters of a failed program's last words


class BenchError(Exception):
    """Something that the benchmark needs isn't there, or doesn't do what it should."""


def need(programs: Mapping[str, str]) -> None:
    """See that programs are there, by the Debian packages that have them; install those as root.

    Raises:
        BenchError: some are missing and can't be installed.
    """
    missing = missing_packages(programs)
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing: {' '.join(missing)}", flush=True)
        quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # in runlevel 1 no package starts its daemon
        run(["apt-get", "-qq", "update"], quiet)
        run(["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *missing], quiet)
        missing = missing_packages(programs)
    if missing:
        raise BenchError(
            f"programs of these packages are missing: {' '.join(missing)}\n"
            f"what to do: sudo apt-get install --no-install-recommends {' '.join(missing)}"
        )


def missing_packages(programs: Mapping[str, str]) -> list[str]:
    """Return the packages of the programs that aren't there."""
    return sorted({package for program, package in programs.items() if not shutil.which(program, path=ENV["PATH"])})


def run(argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Raises:
        BenchError: it fails.
    """
    done = subprocess.run(
        list(argv), env={**ENV, **(env or {})}, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise BenchError(f"{' '.join(argv)} exits with {done.returncode}:\n{(done.stdout + done.stderr)[-SHOWN:]}")
    return done
