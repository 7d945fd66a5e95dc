"""A real etcd, one member or more, on free ports of loopback, stopped by its own process id."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.certificates import Authority

START_SECS = 60.0


def free_port() -> int:
    """Return a port of loopback that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Etcd:
    """One member with a store of its own; a context manager."""

    def __init__(self, directory: Path, *options: str, cert: tuple[Path, Path] | None = None) -> None:
        """Take a directory of its own, further options, and a certificate with its key to serve TLS with."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._cert = cert
        self._options = [*options, *(["--cert-file", str(cert[0]), "--key-file", str(cert[1])] if cert else [])]
        self.endpoint = ""
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for _attempt in range(5):  # another process may take a port between our look and etcd's bind
            self._start(free_port(), free_port())
            if self._wait_healthy():
                return self
            self.stop()
        raise AssertionError((self._directory / "etcd.log").read_text()[-3000:])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, client: int, peer: int) -> None:
        self.endpoint = f"{'https' if self._cert else 'http'}://127.0.0.1:{client}"
        peer_url = f"http://127.0.0.1:{peer}"
        command = [
            "etcd", "--name", "one", "--data-dir", str(self._directory / f"data-{client}"),
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
            "--initial-cluster", f"one={peer_url}", *self._options,
        ]  # fmt: skip
        with (self._directory / "etcd.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log)

    def _wait_healthy(self) -> bool:
        assert self._child is not None
        deadline = time.monotonic() + START_SECS
        while time.monotonic() < deadline and self._child.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/health", timeout=2, context=self._context()) as answer:
                    if json.load(answer).get("health") in ("true", True):
                        return True
            except (OSError, urllib.error.URLError, ValueError):
                pass  # not up yet
            time.sleep(0.05)
        return False

    def _context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=str(self._cert[0])) if self._cert else None

    def pause(self) -> None:
        """Stop the process in its tracks; it answers nobody until `resume`."""
        assert self._child is not None
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._child is not None
        self._child.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Its process id, while it runs."""
        assert self._child is not None
        return self._child.pid

    def stop(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)
            self._child.kill()
            self._child.wait()
            self._child = None


class MutualEtcd(Etcd):
    """An etcd that speaks only to who shows a certificate of the authority."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        server = authority.issue("server")
        options = ("--client-cert-auth", "--trusted-ca-file", str(authority.ca))
        super().__init__(directory, *options, cert=(server.cert, server.key))
        self.context = ssl.create_default_context(cafile=str(authority.ca))
        tester = authority.issue("tester")
        self.context.load_cert_chain(tester.cert, tester.key)

    def _context(self) -> ssl.SSLContext:
        return self.context
