"""A private bus under the real system bus's policy, with the product's own policy files: who may call what."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

SYSTEM_CONF = Path("/usr/share/dbus-1/system.conf")  # Debian's package dbus-system-bus-common
POLICIES = Path(__file__).parents[2] / "systemd" / "dbus"
DOCTYPE = (
    '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" '
    '"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">\n'
)
NOBODY = 65534
DENIED = "org.freedesktop.DBus.Error.AccessDenied"


def write_config(path: Path) -> None:
    """Write a bus configuration: the policies of the system's own file, then the product's, on a socket of its own."""
    config = ET.Element("busconfig")
    ET.SubElement(config, "type").text = "system"
    ET.SubElement(config, "listen").text = "unix:tmpdir=/tmp"  # where other users can reach it
    ET.SubElement(config, "auth").text = "EXTERNAL"
    config.extend(ET.parse(SYSTEM_CONF).getroot().findall("policy"))
    ET.SubElement(config, "includedir").text = str(POLICIES)
    path.write_text(DOCTYPE + ET.tostring(config, encoding="unicode"))


@contextmanager
def system_bus(directory: Path) -> Iterator[str]:
    """Run such a bus, yield its address, end it by its process id."""
    config = directory / "system.conf"
    write_config(config)
    with (directory / "system-bus.log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert daemon.stdout is not None
        address = daemon.stdout.readline().strip()
        assert address, (directory / "system-bus.log").read_text()
        yield address
    finally:
        daemon.terminate()
        daemon.communicate(timeout=10)


def send(address: str, uid: int, destination: str, call: str, arguments: Sequence[str] = ()) -> str:
    """Call `INTERFACE.MEMBER` (or a bare member) as a user; return the error's name, or "" when it was answered."""
    done = subprocess.run(
        [
            *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
            *("dbus-send", f"--bus={address}", "--print-reply", f"--dest={destination}", "/", call, *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 0:
        return ""
    assert done.stderr.startswith("Error "), done.stderr
    return done.stderr.removeprefix("Error ").split(":")[0]
