"""TOML read, and a recipe's few kinds of values written."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from pyrometa.errors import first_line

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class NotTOML(ValueError):
    """A text that is no TOML; the message says why."""


def parsed(text: str) -> dict[str, Any]:
    """What a text says.

    Raises:
        NotTOML: why it says nothing.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotTOML(first_line(error)) from None


def written(tables: Mapping[str, Any]) -> str:
    """A text that :func:`parsed` reads back: what is no table first, then the tables."""
    plain = [_line(key, value) for key, value in tables.items() if not isinstance(value, Mapping)]
    parts = ["\n".join(plain)] if plain else []
    for name, table in tables.items():
        if isinstance(table, Mapping):
            parts.append("\n".join([f"[{_key(name)}]", *(_line(key, value) for key, value in table.items())]))
    return "\n\n".join(parts) + "\n"


def _line(key: str, value: Any) -> str:
    return f"{_key(key)} = {_value(value)}"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_line(key, part) for key, part in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"{value}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value) if isinstance(value, bool | int) else value.isoformat()
