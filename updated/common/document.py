"""JSON that others wrote (pure): what it takes in memory is bounded, which its size on the line says little of."""

from __future__ import annotations

import json
from typing import Any

MOST_VALUES = 400_000  # of members, items and containers: some 60 bytes of memory for each, at worst 120
ASCII_BYTES = 256 * 1024  # a longer text has to be ASCII: one other character makes each take four bytes
_MARKS = (b",", b":", b"{", b"[")


def read_json(data: bytes, most: int = MOST_VALUES) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Read a document whose bytes are bounded already.

    Raises:
        ValueError: it isn't JSON, has over `most` values, numbers of thousands of digits, is nested too deeply, or is
            long and not ASCII.
    """
    if sum(map(data.count, _MARKS)) > most:  # marks inside of texts count as well: few texts have many
        raise ValueError(f"it has over {most} values")
    if len(data) > ASCII_BYTES and not data.isascii():
        raise ValueError(f"it is longer than {ASCII_BYTES} bytes and not ASCII")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
