"""Fill typed, frozen dataclasses from layered settings, strictly: wrong types and unknown keys are named.

A nested dataclass is a TOML table. Understood types: str, int, float, bool, Path, `X | None`, tuple[X, ...] and
nested dataclasses. Numbers must be finite and not negative, for every number in our configuration is an amount; what
is named `..._secs` is ten years at most, so that no sum of times overflows.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from updated.common.settings import Layers, SettingsError
from updated.common.text import printable
from updated.common.urls import has_user, shown_url, without_user

T = TypeVar("T")
VALUE_SHOWN = 200  # characters
LARGEST = 2**63 - 1  # of whole numbers, as TOML promises no more
LONGEST_SECS = 10 * 365 * 24 * 3600  # of any duration


def fill(cls: type[T], layers: Layers) -> tuple[T, tuple[str, ...]]:
    """Build `cls` from dotted keys; also return the keys that it doesn't know, sorted.

    Raises:
        SettingsError: a value has the wrong type; the message names the key and the file it came from.
    """
    known: set[str] = set()
    made = _fill_table(cls, layers, "", known)
    return made, tuple(sorted(set(layers.values) - known))


def _fill_table(cls: type[T], layers: Layers, prefix: str, known: set[str]) -> T:
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast("Any", cls)):
        key, kind = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(kind):
            given[field.name] = _fill_table(typing.cast("type[Any]", kind), layers, f"{key}.", known)
        elif key in layers.values:
            known.add(key)
            try:
                given[field.name] = _convert_named(field.name, layers.values[key], kind)
            except ValueError as error:
                raise SettingsError(f"{key} in {layers.origin[key]}: {error}") from error
    return cls(**given)


def convert(value: object, kind: Any) -> Any:  # noqa: ANN401 - a type in, a value of it out
    """Return `value` as `kind`, without guessing.

    Raises:
        ValueError: it isn't one.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = [choice for choice in typing.get_args(kind) if choice is not type(None)]
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"must be a list, not {_quoted(value)}")
        return tuple(convert(item, typing.get_args(kind)[0]) for item in value)
    if dataclasses.is_dataclass(kind):
        return _convert_table(value, typing.cast("type[Any]", kind))
    return _convert_scalar(value, kind)


def _convert_named(name: str, value: object, kind: Any) -> Any:  # noqa: ANN401 - as convert
    made = convert(value, kind)
    if name.endswith("_secs") and made > LONGEST_SECS:
        raise ValueError(f"must be at most {LONGEST_SECS} s (ten years), not {made:g}")
    return made


def _convert_table(value: object, kind: type[Any]) -> object:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a table, not {_quoted(value)}")
    hints = typing.get_type_hints(kind)
    unknown = set(value) - set(hints)
    if unknown:
        raise ValueError(f"has no key {', '.join(sorted(unknown))}")
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in value
    ]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    return kind(**{name: _convert_item(name, item, hints[name]) for name, item in value.items()})


def _convert_item(name: str, value: object, kind: Any) -> Any:  # noqa: ANN401 - as convert
    try:
        return _convert_named(name, value, kind)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error


def _convert_scalar(value: object, kind: Any) -> object:  # noqa: ANN401 - a type
    if isinstance(value, str) and "://" in value and has_user(value):
        raise ValueError(
            f"{shown_url(value)!r} has a user or a password in it, and a URL is shown to everybody:"
            " settings of their own or a file are the place for them"
        )
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError("is too large a number")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind in (str, int, float, bool) and type(value) is kind:
        if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"must be finite and not negative, not {value!r}")
        return value
    raise ValueError(f"must be of type {'path' if kind is Path else kind.__name__}, not {_quoted(value)}")


def _quoted(value: object) -> str:
    """Return a value as an error repeats it; what may be a password in a URL is left out."""
    text = repr(value)
    return printable(without_user(text) if "://" in text else text, VALUE_SHOWN)


def flatten(settings: object, prefix: str = "") -> dict[str, Any]:
    """Return a filled dataclass as dotted keys, paths as text: what `config show` prints."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast("Any", settings)):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            found |= flatten(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = str(value) if isinstance(value, Path) else value
    return found
