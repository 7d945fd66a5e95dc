"""Requests as bytes, in both directions (pure): the client writes update_engine's form, the server reads any."""

from __future__ import annotations

from updated.common.text import decimal, printable
from updated.omaha.messages import App, Event, Request
from updated.omaha.xml import Element, XmlError, escape, parse_xml

REQUEST_LIMIT = 64 * 1024  # bytes; Nebraska's
LARGEST_NUMBER = 2**31 - 1  # of an event's
APP_ATTRIBUTES = (
    "version", "track", "bootid", "oem", "oemversion", "alephversion", "machineid", "machinealias", "lang", "board",
    "hardware_class",
)  # fmt: skip


def encode_request(request: Request) -> bytes:
    """Write a request, elements and attributes in update_engine's order, every value escaped."""
    app = request.app
    attributes = "".join(f' {name}="{escape(getattr(app, name))}"' for name in APP_ATTRIBUTES)
    inner = []
    if request.ping:
        inner.append('<ping active="1"></ping>')
    if request.updatecheck:
        inner.append("<updatecheck></updatecheck>")
    inner += [_encode_event(event) for event in request.events]
    updater = escape(request.updater_version)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        (
            f'<request protocol="3.0" version="{updater}" updaterversion="{updater}"'
            f' installsource="{escape(request.installsource)}" ismachine="1">'
        ),
        f'    <os version="Chateau" platform="CoreOS" sp="{escape(app.version)}"></os>',
        f'    <app appid="{escape(app.appid)}"{attributes} delta_okay="{str(app.delta_okay).lower()}" >',
        *(f"        {line}" for line in inner),
        "    </app>",
        "</request>",
        "",
    ]
    return "\n".join(lines).encode()


def _encode_event(event: Event) -> str:
    text = f'<event eventtype="{event.type}" eventresult="{event.result}"'
    if event.errorcode is not None:
        text += f' errorcode="{event.errorcode}"'
    if event.previousversion is not None:
        text += f' previousversion="{escape(event.previousversion)}"'
    return text + "></event>"


def parse_request(body: bytes) -> Request:
    """Read a request, as lenient about what is missing as the servers in use are.

    Raises:
        ValueError: it is no Omaha request.
    """
    try:
        root = parse_xml(body, REQUEST_LIMIT)
    except XmlError as error:
        raise ValueError(f"the request is no XML: {error}") from error
    app = root.first("app")
    if root.name != "request" or app is None or not app.get("appid"):
        raise ValueError("the request has no app")
    return Request(
        app=App(
            appid=app.get("appid"),
            delta_okay=app.get("delta_okay") == "true",
            **{name: app.get(name) for name in APP_ATTRIBUTES},
        ),
        installsource=root.get("installsource", "scheduler"),
        ping=app.first("ping") is not None,
        updatecheck=app.first("updatecheck") is not None,
        events=tuple(_parse_event(event) for event in app.all("event")),
        updater_version=root.get("version"),
    )


def _parse_event(element: Element) -> Event:
    return Event(
        type=_number(element.get("eventtype", "0")),
        result=_number(element.get("eventresult", "0")),
        errorcode=_number(element.get("errorcode")) if "errorcode" in element.attributes else None,
        previousversion=element.attributes.get("previousversion"),
    )


def _number(text: str) -> int:
    """Read a number of Google's lists, or an error code of a host, which may be negative."""
    number = decimal(text.removeprefix("-"), LARGEST_NUMBER)
    if number is None:
        raise ValueError(f"{printable(text, 40)!r} is no number")
    return -number if text.startswith("-") else number
