"""The server's HTTP: Omaha, payloads with ranges, and what the hosts reported."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from updated.common.clock import SystemClock, rfc3339
from updated.errors import UpdateError
from updated.omaha.messages import Request
from updated.omaha.request import REQUEST_LIMIT, parse_request
from updated.omaha.response import NAME
from updated.server.catalogue import Catalogue
from updated.server.decisions import answer

XML = "text/xml; charset=utf-8"
EVENTS_SHOWN = 1000


def make_app(directory: Path, public_url: str | None = None, token: bytes = b"", *, is_open: bool = True) -> Starlette:
    """Return the application.

    Args:
        directory: the releases.
        public_url: where hosts reach this server, when that isn't what they asked (a proxy in front).
        token: what an operator sends to see the events.
        is_open: whether the events are for whoever asks, when there is no token: for a server of loopback.
    """
    service = Service(Catalogue(directory), public_url, token, is_open=is_open)
    return Starlette(
        routes=[
            Route("/v1/update", service.update, methods=["POST"]),
            Route("/v1/update/", service.update, methods=["POST"]),
            Route("/packages/{name}", service.package, methods=["GET", "HEAD"]),
            Route("/events", service.events, methods=["GET"]),
            Route("/health", service.health, methods=["GET"]),
        ]
    )


class Service:
    """The handlers."""

    def __init__(self, catalogue: Catalogue, public_url: str | None, token: bytes, *, is_open: bool) -> None:
        self._catalogue, self._public_url = catalogue, public_url
        self._token, self._open = token, is_open

    async def update(self, http: HttpRequest) -> Response:
        """Answer an Omaha request."""
        body = bytearray()
        async for piece in http.stream():
            body += piece
            if len(body) > REQUEST_LIMIT:
                return PlainTextResponse("the request is too large", 413)
        try:
            request = parse_request(bytes(body))
        except ValueError as error:
            return PlainTextResponse(str(error), 400)
        base = (self._public_url or str(http.base_url)).rstrip("/")
        try:
            return await run_in_threadpool(self._answer, request, f"{base}/packages/")
        except UpdateError as error:
            return PlainTextResponse(f"{error.message}. {error.hint}", 500)

    def _answer(self, request: Request, codebase: str) -> Response:
        app = request.app
        self._catalogue.note_events([_entry(request, event) for event in _as_dicts(request)])
        content = answer(
            request,
            self._catalogue.channel(app.appid, app.track),
            known_product=app.appid in self._catalogue.products(),
            codebase=codebase,
        )
        return Response(content, media_type=XML)

    async def package(self, http: HttpRequest) -> Response:
        """Send a payload or a package of a release on offer, whole or in ranges."""
        name = http.path_params["name"]
        path = self._catalogue.directory / name
        try:
            known = bool(NAME.fullmatch(name)) and await run_in_threadpool(self._serves, name)
        except UpdateError as error:
            return PlainTextResponse(f"{error.message}. {error.hint}", 500)
        if not known or not path.is_file():
            return PlainTextResponse("there is no such payload", 404)
        return FileResponse(path, media_type="application/octet-stream")

    def _serves(self, name: str) -> bool:
        return self._catalogue.offers(name)

    async def events(self, http: HttpRequest) -> Response:
        """Return the last thousand events as JSON, to who has the token or, without one, to this machine."""
        if not self._may_see(http):
            return PlainTextResponse("events are for operators: serve with --token-file, and send that", 401)
        return JSONResponse(await run_in_threadpool(self._catalogue.last_events, EVENTS_SHOWN))

    def _may_see(self, http: HttpRequest) -> bool:
        if self._token:
            scheme, _, given = http.headers.get("authorization", "").partition(" ")
            return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)
        return self._open

    async def health(self, _http: HttpRequest) -> Response:
        """Say that the server serves."""
        return PlainTextResponse("ok")


def _as_dicts(request: Request) -> list[dict[str, Any]]:
    return [
        {
            "eventtype": event.type,
            "eventresult": event.result,
            "errorcode": event.errorcode,
            "previousversion": event.previousversion,
        }
        for event in request.events
    ]


def _entry(request: Request, event: Mapping[str, Any]) -> Mapping[str, Any]:
    app = request.app
    at = rfc3339(SystemClock().now())
    who = {"at": at, "machineid": app.machineid, "product": app.appid, "version": app.version, "channel": app.track}
    return {**who, **event}
