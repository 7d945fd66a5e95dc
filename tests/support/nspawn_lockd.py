"""What the tests of lockd on whole machines share: settings with a real etcd, programs, gates, a person."""

from __future__ import annotations

import json
from typing import Any

from tests.support.etcd import Etcd
from tests.support.nspawn import NspawnHost
from tests.support.processes import run_tool, wait_for

PERSON = "ann"
TYPED = "/run/terminal-of-ann"
# login(1) on a pseudo terminal of the machine, as agetty and sshd start it: it owns the terminal, sets its mode, and
# registers the session with logind and in utmp; what is written to the terminal is kept.
LOGIN = f"""
import os, pty
child, terminal = pty.fork()
if child == 0:
    os.execv("/bin/login", ["login", "-f", "{PERSON}"])
with open("{TYPED}", "wb", buffering=0) as kept:
    while True:
        try:
            kept.write(os.read(terminal, 4096))
        except OSError:  # the session is over
            break
"""


def etcd_policy(etcd: Etcd, more: str = "") -> str:
    """Return settings of strategy etcd, without waits that only a fleet needs."""
    table = f'[etcd]\nendpoints = ["{etcd.endpoint}"]\n'
    return f'strategy = "etcd"\ngroup = "web"\nspread_secs = 0\n{table}{more}'


def add_program(host: NspawnHost, path: str, body: str) -> None:
    """Put an executable shell script below /etc/lockd."""
    host.write(f"lockd/{path}", f"#!/bin/sh\n{body}\n")
    host.run("chmod", "755", f"/etc/lockd/{path}")


def explain(host: NspawnHost, user: str | None = None) -> list[dict[str, Any]]:
    """Return `lockctl explain --json` in the machine."""
    return list(json.loads(host.run("lockctl", "explain", "--json", user=user).stdout))


def wait_gate(host: NspawnHost, gate: str, words: str, state: str = "closed") -> dict[str, Any]:
    """Wait until a gate stands like this, with these words in its reason."""

    def look() -> dict[str, Any] | None:
        done = host.run("lockctl", "explain", "--json", check=False)
        chain = json.loads(done.stdout) if done.returncode == 0 else []
        return next(
            (one for one in chain if one["gate"] == gate and one["state"] == state and words in one["reason"]), None
        )

    return wait_for(look, f"gate {gate} {state}: {words}")


def holders(etcd: Etcd) -> dict[str, str]:
    """Return who holds a slot in etcd, and in which phase, asked from outside the machine."""
    env = {"LOCKD_CONFIG": "/dev/null", "LOCKD_ENDPOINTS": etcd.endpoint, "LOCKD_GROUP": "web"}
    done = run_tool("lockctl", "status", "--json", env={**env, "LOCKD_MACHINE_ID": "onlooker"})
    assert done.returncode == 0, done.stderr
    return {ticket["id"]: ticket["phase"] for ticket in json.loads(done.stdout)["holders"]}


def add_person(host: NspawnHost) -> None:
    """Make an account without privileges."""
    host.run("useradd", "--no-create-home", "--home-dir", "/tmp", "--shell", "/bin/sh", PERSON)


def log_in(host: NspawnHost) -> None:
    """Let a person without privileges log in on a terminal, and wait until logind knows and the terminal is theirs."""
    add_person(host)
    host.write("log-in.py", LOGIN)
    host.run("systemd-run", "--quiet", "--unit=person", "python3", "/etc/log-in.py")
    wait_for(lambda: PERSON in host.run("loginctl", "list-sessions", "--no-legend").stdout, f"session of {PERSON}")
    owned = ("stat", "--format=%U %a", "/dev/pts/0")
    wait_for(lambda: host.run(*owned).stdout.split()[0] == PERSON, f"terminal of {PERSON}")


def shown(host: NspawnHost) -> str:
    """Return what was written to that terminal."""
    return host.run("cat", TYPED, check=False).stdout


def show(host: NspawnHost, unit: str, *names: str) -> dict[str, str]:
    """Return properties of a unit."""
    lines = host.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)
