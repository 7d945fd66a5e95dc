"""Connections for tests that send hundreds of thousands of requests: without what would cost as much as a request."""

from __future__ import annotations

import ssl
import sys

import httpx

from lockd.etcd import EtcdClient, EtcdOptions

PATIENCE_SECS = 60.0
PLAIN = ssl.create_default_context()  # one for all: making it takes longer than a request

# Which event loop runs is asked of this module at each request. Where it isn't installed, it is looked for at each
# request too, in every folder of the path.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]


class QuickTransport(httpx.AsyncHTTPTransport):
    """A real transport to servers of loopback."""

    def __init__(self) -> None:
        super().__init__(verify=PLAIN)


def patient_client(endpoint: str, transport: httpx.AsyncBaseTransport) -> EtcdClient:
    """Return a client of etcd that a busy machine's pauses don't fail: where what is lost is up to the test alone."""
    http = httpx.AsyncClient(transport=transport, trust_env=False, timeout=PATIENCE_SECS)
    return EtcdClient(EtcdOptions((endpoint,), request_timeout_secs=PATIENCE_SECS), http)
