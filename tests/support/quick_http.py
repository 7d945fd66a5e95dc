"""Connections for tests that send hundreds of thousands of requests: without what would cost as much as a request."""

from __future__ import annotations

import ssl
import sys

import httpx

PLAIN = ssl.create_default_context()  # one for all: making it takes longer than a request

# Which event loop runs is asked of this module at each request. Where it isn't installed, it is looked for at each
# request too, in every folder of the path.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]


class QuickTransport(httpx.AsyncHTTPTransport):
    """A real transport to servers of loopback."""

    def __init__(self) -> None:
        super().__init__(verify=PLAIN)
