"""FleetLock for tests: certificates, the product's lock manager as a process, hosts as Zincati asks, odd servers."""

from __future__ import annotations

import base64
import datetime as dt
import http.client
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.processes import Process, tool


class Authority:
    """A certificate authority in a folder; `issue` makes certificates for 127.0.0.1 and for clients."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority {folder.name}")])
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(_pem(self._sign(self._name, self._key, ca=True)))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name)])
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        paths[0].write_bytes(_pem(self._sign(subject, key, ca=False)))
        form = serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return paths

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        )
        return made.sign(self._key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class LockManager:
    """`lockd-fleetlock` on a free port; a context manager."""

    def __init__(self, folder: Path, endpoint: str, more: str, etcd_secs: float = 10) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._config = folder / "lockd-fleetlock.toml"
        self._config.write_text(f'listen = "127.0.0.1:0"\n{more}\n[etcd]\nendpoints = ["{endpoint}"]\n'
                                f'prefix = "/{folder.name}"\nrequest_timeout_secs = {etcd_secs}\n')  # fmt: skip
        self.env = {"LOCKD_FLEETLOCK_CONFIG": str(self._config)}
        self.process: Process | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            assert self.process.stop() == 0, self.process.log.read_text()

    def start(self) -> None:
        log = self._folder / "server.log"
        log.write_text("")
        self.process = Process(tool("lockd-fleetlock"), log, self.env)
        line = self.process.wait_log("listening")
        self.url = next(part.removeprefix("url=") for part in line.split() if part.startswith("url="))
        self.process.wait_log("event=ready")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()


@dataclass(frozen=True)
class Zincati:
    """A host that asks as Zincati does, with nothing of the product's in between; `token` goes as a password."""

    url: str
    id: str
    group: str = "default"
    token: str = ""
    context: ssl.SSLContext | None = None

    def pre_reboot(self) -> tuple[int, dict[str, Any]]:
        return self.post("v1/pre-reboot")

    def steady_state(self) -> tuple[int, dict[str, Any]]:
        return self.post("v1/steady-state")

    def post(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = "POST"
    ) -> tuple[int, dict[str, Any]]:
        """Return the status, and the refusal's document if there is one."""
        url = urlsplit(self.url)
        assert url.hostname
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=30, context=self.context)
        else:
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        params = {"client_params": {"id": self.id, "group": self.group}}
        try:
            connection.request(
                method, f"{url.path}{path}", json.dumps(params, indent=2).encode() if body is None else body,
                {"fleet-lock-protocol": "true", **self._authorization(), **(headers or {})},
            )  # fmt: skip
            answer = connection.getresponse()
            text = answer.read()
            if text:
                assert answer.headers["Content-Type"] == "application/json"
            return answer.status, json.loads(text) if text else {}
        finally:
            connection.close()

    def _authorization(self) -> dict[str, str]:
        if not self.token:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(f"zincati:{self.token}".encode()).decode()}


Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def odd_server(answer: Callable[[str, dict[str, str], bytes], Answer]) -> Iterator[str]:
    """Serve whatever `answer` makes of path, headers and body; yields a base URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = answer(self.path, {k.lower(): v for k, v in self.headers.items()}, sent)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
