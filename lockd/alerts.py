"""Prometheus as a blocker: an instant query that must come back empty.

What isn't a clear "nothing" blocks: no answer, an error, warnings about partial data, a result that isn't understood.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx

from lockd.local_settings import AlertSettings
from updated.common.durable import read_bounded

ANSWER_LIMIT = 1024 * 1024  # bytes
NAMES_SHOWN = 5


def judge(data: bytes) -> str:
    """Return why Prometheus's answer holds the reboot back; empty when it says that nothing matches (pure)."""
    try:
        document = json.loads(data)
        if document["status"] != "success":
            return f"Prometheus says {str(document.get('error') or document['status'])[:200]}"
        kind, result = document["data"]["resultType"], document["data"]["result"]
        if kind != "vector" or not isinstance(result, list):
            return f"the query gives a {str(kind)[:40]}, not a vector that can be empty"
        if document.get("warnings"):
            return f"Prometheus warns: {str(document['warnings'])[:200]}"
        names = sorted({_name(item) for item in result})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"Prometheus's answer isn't understood ({error!r:.100})"
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(result)} series: {', '.join(names[:NAMES_SHOWN])}{more}" if names else ""


def _name(item: Mapping[str, Any]) -> str:
    labels = item["metric"]
    return str(labels.get("alertname") or labels.get("__name__") or labels)[:80]


async def ask(settings: AlertSettings) -> str:
    """Return why the reboot is held back, empty when nothing does; what can't be found out holds it back."""
    try:
        async with asyncio.timeout(settings.timeout_secs):  # httpx's own is for each byte, and bytes may drip
            status, data = await _fetch(settings)
    except TimeoutError:
        return f"Prometheus at {settings.url} doesn't answer in {settings.timeout_secs:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return f"Prometheus at {settings.url} can't be asked: {str(error) or type(error).__name__}"
    if status not in (200, 400, 422, 503):  # those have a JSON document that says more
        return f"Prometheus at {settings.url} answers {status}"
    return judge(data) or ("" if status == httpx.codes.OK else f"Prometheus at {settings.url} answers {status}")


async def _fetch(settings: AlertSettings) -> tuple[int, bytes]:
    verify = httpx.create_ssl_context(verify=str(settings.ca_file)) if settings.ca_file else True
    headers = {}
    if settings.token_file:
        headers["Authorization"] = f"Bearer {read_bounded(settings.token_file, 4096).decode('ascii').strip()}"
    url = settings.url.rstrip("/") + "/api/v1/query"
    async with (
        httpx.AsyncClient(verify=verify, trust_env=False, timeout=settings.timeout_secs, headers=headers) as client,
        client.stream("GET", url, params={"query": settings.query}) as answer,
    ):
        data = bytearray()
        async for piece in answer.aiter_bytes():
            data += piece
            if len(data) > ANSWER_LIMIT:
                raise ValueError(f"its answer is over {ANSWER_LIMIT} bytes")
        return answer.status_code, bytes(data)
