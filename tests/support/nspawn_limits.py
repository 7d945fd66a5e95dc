"""What systemd-nspawn can't do as a machine does, each entry with its reason; and a clock that begins with the boot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """What nspawn can't do as a machine does; `files` of /etc and `options` of systemd-nspawn stand in for it."""

    what: str
    why: str
    files: Mapping[str, str]
    options: Sequence[str] = ()


LIMITS = (
    Limit(
        "the boot id is read from /run/boot-id, a new one for each boot",
        "ProtectProc= and ProtectKernelTunables= mount a fresh /proc, whose boot id is the test machine's, always",
        {
            "updated/conf.d/10-nspawn.toml": '[host]\nboot_id = "/run/boot-id"\n',
            "lockd/conf.d/10-nspawn.toml": 'boot_id_file = "/run/boot-id"\n',
        },
    ),
    Limit(
        "the container may load BPF programs",
        "without that systemd can't, and doesn't say so: DevicePolicy= and IPAddressDeny= would be ignored in silence",
        {},
        ("--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON", "--system-call-filter=bpf"),
    ),
)


def own_surroundings() -> list[str]:
    """Return how to start a command with mounts of its own, for which the time since the boot begins now."""
    since = {"--monotonic": time.CLOCK_MONOTONIC, "--boottime": time.CLOCK_BOOTTIME}
    offsets = [part for option, clock in since.items() for part in (option, f"-{int(time.clock_gettime(clock))}")]
    return ["unshare", "--fork", "--mount", "--time", *offsets, "--"]
