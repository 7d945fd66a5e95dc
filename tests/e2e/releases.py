"""Releases that the tests of whole machines install: a good one, and bad ones of several kinds."""

from __future__ import annotations

from fixtures.image.slot import SystemRelease

CHECK = """[Unit]
Description=Check of this release
Before=boot-complete.target
[Service]
Type=oneshot
ExecStart=/usr/libexec/check
[Install]
RequiredBy=boot-complete.target
"""
FAILS = "#!/bin/sh\necho 'the network driver of this release does not load'\nexit 3\n"

FIRST = SystemRelease("1.0.0")
NEXT = SystemRelease("1.1.0")
UNHEALTHY = SystemRelease(
    "1.1.0-unhealthy",
    files={"usr/lib/systemd/system/check.service": CHECK, "usr/libexec/check": FAILS},
    enable=("check.service",),
)
HANGING = SystemRelease(
    "1.1.0-hanging",
    files={"usr/lib/systemd/system/check.service": CHECK, "usr/libexec/check": "#!/bin/sh\nexec sleep infinity\n"},
    enable=("check.service",),
)
# its kernel would panic: there is no first process
DEAD = SystemRelease("1.1.0-dead", files={"usr/lib/systemd/systemd": None})
