"""locksmith's settings, read as they are but strictly (pure): KEY=VALUE in, our own keys out.

From update.conf and from the environment that locksmithd's unit makes of it: REBOOT_STRATEGY, REBOOT_WINDOW_START and
_LENGTH (LOCKSMITHD_REBOOT_WINDOW_START and _LENGTH beat them), and LOCKSMITHD_ENDPOINT, _GROUP, _ETCD_CAFILE,
_ETCD_CERTFILE, _ETCD_KEYFILE and _ETCD_USERNAME. What locksmith took by accident is refused
(docs/reboot-windows.md has the list).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from lockd.windows import WEEK_SECS, parse_start

STRATEGIES = {"reboot": "reboot", "etcd-lock": "etcd", "off": "off"}
TEXTS = {
    "LOCKSMITHD_GROUP": ("group",),
    "LOCKSMITHD_ETCD_CAFILE": ("etcd", "ca_file"),
    "LOCKSMITHD_ETCD_CERTFILE": ("etcd", "cert_file"),
    "LOCKSMITHD_ETCD_KEYFILE": ("etcd", "key_file"),
    "LOCKSMITHD_ETCD_USERNAME": ("etcd", "username"),
}
KEYS = (
    "REBOOT_STRATEGY", "REBOOT_WINDOW_START", "REBOOT_WINDOW_LENGTH", "LOCKSMITHD_REBOOT_WINDOW_START",
    "LOCKSMITHD_REBOOT_WINDOW_LENGTH", "LOCKSMITHD_ENDPOINT", "LOCKSMITHD_ETCD_PASSWORD", *TEXTS,
)  # fmt: skip
DAY_SECS = 24 * 3600
UNITS = {"h": 3600, "m": 60, "s": 1}
LENGTH = re.compile(r"(?:\d+(?:\.\d+)?[hms])+", re.ASCII)
PIECE = re.compile(r"(\d+(?:\.\d+)?)([hms])", re.ASCII)
START = re.compile(r"(?:(sun|mon|tue|wed|thu|fri|sat) )?(\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def translate(values: Mapping[str, str]) -> dict[str, Any]:
    """Return lockd's settings for locksmith's; keys of others are left alone, an empty value says nothing.

    Raises:
        ValueError: one of them can't be meant; the message names it.
    """
    given = {key: values[key] for key in KEYS if values.get(key)}
    found: dict[str, Any] = {}
    if "REBOOT_STRATEGY" in given:
        found["strategy"] = _strategy(given["REBOOT_STRATEGY"])
    if "LOCKSMITHD_ETCD_PASSWORD" in given:
        raise ValueError("LOCKSMITHD_ETCD_PASSWORD: put the password into a file, and its name into etcd.password_file")
    if "LOCKSMITHD_ENDPOINT" in given:
        endpoints = [part.strip() for part in given["LOCKSMITHD_ENDPOINT"].split(",") if part.strip()]
        found.setdefault("etcd", {})["endpoints"] = endpoints
    for key, place in TEXTS.items():
        if key in given:
            table = found if len(place) == 1 else found.setdefault(place[0], {})
            table[place[-1]] = given[key]
    window = _window(given)
    return found | ({"window": [window]} if window else {})


def parse_length(text: str, *, limit_secs: int = WEEK_SECS) -> int:
    """Read Go's duration, `1h30m` or `90m`, of whole seconds, under the limit; return seconds.

    Raises:
        ValueError: it is something else, nothing, negative, or too long.
    """
    if not LENGTH.fullmatch(text):
        raise ValueError(f"REBOOT_WINDOW_LENGTH: {text!r} is no length such as 1h30m, in h, m and s")
    secs = sum(Fraction(number) * UNITS[unit] for number, unit in PIECE.findall(text))
    if secs.denominator != 1 or not 0 < secs < limit_secs:
        raise ValueError(f"REBOOT_WINDOW_LENGTH: {text!r} isn't whole seconds above 0 and under {limit_secs} s")
    return int(secs)


def _strategy(text: str) -> str:
    if text not in STRATEGIES:
        raise ValueError(f"REBOOT_STRATEGY={text!r} is none of {', '.join(STRATEGIES)} (best-effort is gone: choose)")
    return STRATEGIES[text]


def _window(given: Mapping[str, str]) -> dict[str, Any] | None:
    start, length = (
        given.get(f"LOCKSMITHD_REBOOT_WINDOW_{name}") or given.get(f"REBOOT_WINDOW_{name}")
        for name in ("START", "LENGTH")
    )
    if not start and not length:
        return None
    if not start or not length:
        raise ValueError("REBOOT_WINDOW_START and REBOOT_WINDOW_LENGTH go together: one of them is missing")
    found = START.fullmatch(start)
    if not found:
        raise ValueError(f"REBOOT_WINDOW_START: {start!r} is no 'HH:MM' or 'Thu HH:MM'")
    parse_start(found[2])
    secs = parse_length(length, limit_secs=WEEK_SECS if found[1] else DAY_SECS)
    days = [found[1]] if found[1] else []
    return {"start": found[2], "duration_secs": secs, "days": days, "timezone": "local"}
