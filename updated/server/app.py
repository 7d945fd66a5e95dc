"""The server's HTTP: Omaha, payloads with ranges, and what the hosts reported."""

from __future__ import annotations

import json
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
from updated.server.catalogue import EVENTS, Catalogue
from updated.server.decisions import answer

XML = "text/xml; charset=utf-8"
EVENTS_SHOWN = 1000


def make_app(directory: Path, public_url: str | None = None) -> Starlette:
    """Return the application.

    Args:
        directory: the releases.
        public_url: where hosts reach this server, when that isn't what they asked (a proxy in front).
    """
    service = Service(Catalogue(directory), public_url)
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

    def __init__(self, catalogue: Catalogue, public_url: str | None) -> None:
        self._catalogue, self._public_url = catalogue, public_url

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
        return name.endswith(".payload") or self._catalogue.has_package(name)

    async def events(self, _http: HttpRequest) -> Response:
        """Return the last thousand events as JSON."""
        path = self._catalogue.directory / EVENTS
        lines = (await run_in_threadpool(path.read_text)).splitlines() if path.exists() else []
        return JSONResponse([json.loads(line) for line in lines[-EVENTS_SHOWN:]])

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
