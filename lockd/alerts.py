"""Prometheus as a blocker: an instant query that must come back empty.

What isn't a clear "nothing" blocks: no answer, an error, warnings about partial data, a result that isn't understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lockd.local_settings import AlertSettings
from updated.common import web
from updated.common.document import read_json
from updated.common.ownership import read_owned
from updated.common.text import printable
from updated.common.urls import shown_url
from updated.common.web import WebAnswer, WebBounds, WebError, WebTimeoutError, tls_context, told_by

ANSWER_LIMIT = 1024 * 1024  # bytes
NAMES_SHOWN = 5
OK = 200


def judge(data: bytes) -> str:
    """Return why Prometheus's answer holds the reboot back; empty when it says that nothing matches (pure)."""
    try:
        document = read_json(data)
        if document["status"] != "success":
            return printable(f"Prometheus says {document.get('error') or document['status']}", 200)
        kind, result = document["data"]["resultType"], document["data"]["result"]
        if kind != "vector" or not isinstance(result, list):
            return f"the query gives a {printable(str(kind), 40)}, not a vector that can be empty"
        if document.get("warnings"):
            return printable(f"Prometheus warns: {document['warnings']}", 200)
        names = sorted({_name(item) for item in result})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"Prometheus's answer isn't understood ({printable(repr(error), 100)})"
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(result)} series: {', '.join(names[:NAMES_SHOWN])}{more}" if names else ""


def _name(item: Mapping[str, Any]) -> str:
    labels = item["metric"]
    return printable(str(labels.get("alertname") or labels.get("__name__") or labels), 80)


async def ask(settings: AlertSettings) -> str:
    """Return why the reboot is held back, empty when nothing does; what can't be found out holds it back."""
    where = f"Prometheus at {shown_url(settings.url)}"
    try:
        answer = await _fetch(settings)
    except WebTimeoutError:
        return f"{where} doesn't answer in {settings.timeout_secs:g} s"
    except (WebError, OSError, ValueError) as error:  # the two others: of a file that is read for the request
        return f"{where} can't be asked: {printable(str(error) or type(error).__name__)}"
    told = f"{where} answers {told_by(answer.status, answer.headers)}"
    if answer.status not in (OK, 400, 422, 503):  # those have a JSON document that says more
        return told
    return judge(answer.body) or ("" if answer.status == OK else told)


async def _fetch(settings: AlertSettings) -> WebAnswer:
    context = tls_context(settings.ca_file)
    headers = {}
    if settings.token_file:
        headers["Authorization"] = f"Bearer {read_owned(settings.token_file, 4096).decode('ascii').strip()}"
    url, bounds = settings.url.rstrip("/") + "/api/v1/query", WebBounds(settings.timeout_secs, ANSWER_LIMIT)
    async with web.open_client(context, timeout_secs=settings.timeout_secs, headers=headers) as client:
        return await web.ask(client, "GET", url, bounds, params={"query": settings.query})
