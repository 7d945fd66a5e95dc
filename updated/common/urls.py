"""What an address must be (pure): checked where it is read, not at the first request."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from updated.common.text import printable

URL_SHOWN = 300  # characters
URL_LENGTH = 4096  # characters of a URL that others name; those that object stores sign have 2,000


def check_http_url(text: str) -> SplitResult:
    """Return the parts of an http:// or https:// URL with a host.

    A user or a password in it is refused, and not repeated: a URL is shown to everybody, in status, logs and errors.

    Raises:
        ValueError: it is none, has a user or a password, or its port is none.
    """
    if has_user(text):
        raise ValueError(f"{without_user(text)!r} has a user or a password in it: they don't belong into a URL")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        why = "" if "@" in text else f": {error}"  # which repeats what stands for a port: half of a password, maybe
        raise ValueError(f"{without_user(text)!r} is no URL{why}") from error
    if not re.fullmatch(r"https?://[^\s?#\\]+", text) or not parts.hostname:
        raise ValueError(f"{without_user(text)!r} isn't http:// or https:// with a host, without ? and #")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(f"{text!r} has no port after its colon")
    return parts


def has_user(text: str) -> bool:
    """Tell whether a URL, or what somebody took for one, has a user or a password in it, even an empty one.

    An `@` before the path is the mark of both; in a path or a query it means nothing.
    """
    return "@" in re.split(r"[/?#\\]", text.partition("://")[2] or text, maxsplit=1)[0]


def without_user(text: str) -> str:
    """Return a URL to be shown: whatever may be a user and a password is left out."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "", text
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def shown_url(text: str) -> str:
    """Return a URL as errors, logs and status repeat it: bounded, printable, without user, password and query.

    A query may be as good as a password: object stores sign the addresses that they redirect to in there.
    """
    bare, mark, _ = text.partition("#")[0].partition("?")
    shown = without_user(bare) if has_user(bare) or not is_download_url(bare) else bare
    return printable(shown, URL_SHOWN) + ("?..." if mark else "")


def is_download_url(text: str) -> bool:
    """Tell whether a URL is one of http or https with a host, without a user, and fit to be put into a request."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not has_user(text)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    return usable and text.isprintable() and not any(map(str.isspace, text))
