"""What an address must be (pure): checked where it is read, not at the first request."""

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


def is_download_url(text: str) -> bool:
    """Tell whether a URL is one of http or https with a host, without a user, and fit to be put into a request."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    return usable and text.isprintable() and not any(map(str.isspace, text))
