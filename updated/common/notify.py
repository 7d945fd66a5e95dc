"""Readiness, status and watchdog messages to systemd (sd_notify(3)): one datagram each."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping


class Notifier:
    """Tells the service manager how the daemon is doing; without an address it tells nobody."""

    def __init__(self, address: str | None, watchdog_secs: float | None = None) -> None:
        self._address = address
        self.watchdog_secs = watchdog_secs

    def ready(self) -> None:
        """Start-up is complete."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={text}".replace("\n", " "))

    def watchdog(self) -> None:
        """The work goes on; call at least every half of `watchdog_secs`, from the work itself."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            contextlib.suppress(OSError),  # nobody listens any more: the work doesn't hang on who hears of it
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.connect(address)
            sock.sendall(message.encode())


def from_environment(environ: Mapping[str, str]) -> Notifier:
    """Build a notifier from NOTIFY_SOCKET and WATCHDOG_USEC as systemd sets them."""
    usec = environ.get("WATCHDOG_USEC", "")
    return Notifier(environ.get("NOTIFY_SOCKET") or None, int(usec) / 1e6 if usec.isdecimal() else None)
