"""What the server answers, given a request and a channel's release (pure)."""

from __future__ import annotations

from hashlib import sha256

from updated.omaha.messages import Manifest, Request
from updated.omaha.response import encode_response
from updated.omaha.version import compare
from updated.server.catalogue import Channel


def answer(request: Request, channel: Channel | None, *, known_product: bool, codebase: str) -> bytes:
    """Write the answer to a request.

    Args:
        request: the request.
        channel: what the asked channel has, None for nothing.
        known_product: whether any channel is of this product.
        codebase: where payloads can be had, with a slash at its end.
    """
    app = request.app
    if not known_product:
        return encode_response(appid=app.appid, app_status="error-unknownApplication", check_status="error-internal")
    check = manifest = None
    if request.updatecheck:
        manifest = _manifest(request, channel, codebase)
        check = "ok" if manifest else "noupdate"
    return encode_response(
        appid=app.appid, check_status=check, manifest=manifest, events=len(request.events), ping=request.ping
    )


def _manifest(request: Request, channel: Channel | None, codebase: str) -> Manifest | None:
    if channel is None or compare(channel.release.version, request.app.version) <= 0:
        return None
    if share_of(request.app.machineid, channel.release.version) >= channel.percent:
        return None
    release = channel.release
    return Manifest(release.version, (codebase,), (release.payload, *release.packages))


def share_of(machine_id: str, version: str) -> int:
    """Return 0 to 99: a host's place in the rollout of a version, evenly spread and another for each version."""
    return int.from_bytes(sha256(f"{version}\0{machine_id}".encode()).digest()[:8], "big") % 100
