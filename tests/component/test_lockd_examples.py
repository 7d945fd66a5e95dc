"""The drains in docs/examples/lockd, run as hooks, with stand-ins that write down what they are asked to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockd.drain import Drain
from lockd.errors import RefusedError
from lockd.local_settings import HookSettings
from tests.component.test_lockd_hooks import script

EXAMPLES = Path(__file__).parents[2] / "docs/examples/lockd"
ENV = {"LOCKD_HOST": "node-1", "LOCKD_VERSION_FROM": "1.0", "LOCKD_VERSION_TO": "2.0"}
PAIRS = {
    ("kubernetes-drain", "kubernetes-uncordon"): (
        "kubectl drain node-1 --ignore-daemonsets --delete-emptydir-data --timeout=590s",
        "kubectl uncordon node-1",
    ),
    ("nomad-drain", "nomad-enable"): (
        "nomad node drain -self -enable -yes -deadline 590s -m reboot from 1.0 to 2.0",
        "nomad node drain -self -disable -yes",
    ),
    ("docker-stop", "docker-start"): (
        "docker ps --quiet --filter label=lockd.drain\ndocker stop -t 60 c1 c2",
        "docker start c1 c2",
    ),
    ("units-stop", "units-start"): ("systemctl stop postgresql.service", "systemctl start postgresql.service"),
}


def place(tmp_path: Path, folder: str, name: str) -> None:
    """Put an example where hooks are; the folders that it names are below tmp_path."""
    text = (EXAMPLES / name).read_text()
    for system in ("/etc/lockd", "/run/lockd"):
        text = text.replace(system, str(tmp_path))
    script(tmp_path / folder, f"50-{name}", text.removeprefix("#!/bin/sh\n"))


def stand_ins(tmp_path: Path, exit_code: int = 0) -> dict[str, str]:
    """Make the programs that the examples call, and return the environment that finds them first."""
    for name in ("kubectl", "nomad", "docker", "systemctl"):
        text = f'echo "{name} $*" >> {tmp_path}/calls\n[ "$1" != ps ] || printf "c1\\nc2\\n"\nexit {exit_code}'
        script(tmp_path / "bin", name, text)
    (tmp_path / "nomad-token").write_text("secret")
    return ENV | {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}


def drain(tmp_path: Path, boot: str) -> Drain:
    return Drain(HookSettings(dirs=(tmp_path,)), tmp_path / "drained.json", boot)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
async def test_example_drains_and_brings_back(tmp_path: Path, pair: tuple[str, str]) -> None:
    """Before the reboot the node is emptied by a deadline of its own, below the hook's; after the boot it is back."""
    place(tmp_path, "pre-reboot.d", pair[0])
    place(tmp_path, "post-boot.d", pair[1])
    env, calls = stand_ins(tmp_path), tmp_path / "calls"
    await drain(tmp_path, "boot-1").before(env)
    assert calls.read_text() == PAIRS[pair][0] + "\n"
    calls.unlink()
    assert await drain(tmp_path, "boot-2").after(env) == ""
    assert calls.read_text() == PAIRS[pair][1] + "\n"


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
async def test_example_that_fails_stops_the_reboot(tmp_path: Path, pair: tuple[str, str]) -> None:
    """When the program under it fails, so does the example."""
    place(tmp_path, "pre-reboot.d", pair[0])
    with pytest.raises(RefusedError, match=f"50-{pair[0]} ended with"):
        await drain(tmp_path, "boot-1").before(stand_ins(tmp_path, exit_code=1))


async def test_deadline_is_told_as_a_whole_number(tmp_path: Path) -> None:
    """A hook may calculate with its deadline in a shell, whatever the policy says."""
    script(tmp_path / "pre-reboot.d", "10-time", f"echo $((LOCKD_TIMEOUT_SECS - 10)) > {tmp_path}/told")
    settings = HookSettings(dirs=(tmp_path,), pre_reboot_timeout_secs=1_234_567.5)
    await Drain(settings, tmp_path / "drained.json", "boot-1").before(ENV)
    assert (tmp_path / "told").read_text() == "1234557\n"
