"""What an address in the settings must be (pure): checked when the settings are read, not at the first request."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit


def check_http_url(text: str) -> SplitResult:
    """Return the parts of an http:// or https:// URL with a host.

    Raises:
        ValueError: it is none, or its port is none.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no URL: {error}") from error
    if not re.fullmatch(r"https?://[^\s?#\\]+", text) or not parts.hostname:
        raise ValueError(f"{text!r} isn't http:// or https:// with a host, without ? and #")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(f"{text!r} has no port after its colon")
    return parts
