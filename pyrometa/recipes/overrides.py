"""What the command line sets in a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyrometa.errors import RecipeError
from pyrometa.recipes.toml import NotTOML, parsed

_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_BARE = re.compile(r"[A-Za-z_./~][\w./:*~-]*")


@dataclass(frozen=True)
class Override:
    """A value for a key.

    Attributes:
        path: the names of table and key.
        value: the value.
    """

    path: tuple[str, ...]
    value: Any

    def sets(self, table: str | None, key: str | None) -> bool:
        """Whether this is what was said of a place, or of one that it is in; of a key also what was said within it."""
        place = _place(table, key)
        within = key is not None and self.path[: len(place)] == place
        return bool(place) and (within or place[: len(self.path)] == self.path)

    def touches(self, table: str | None) -> bool:
        """Whether this sets something within a table."""
        place = _place(table, None)
        return bool(place) and self.path[: len(place)] == place


def _place(table: str | None, key: str | None) -> tuple[str, ...]:
    return tuple(part for name in (table, key) if name for part in name.split("."))


def override(text: str) -> Override:
    """What ``table.key=value`` says; the value is TOML, or text without quotes if it is but one word.

    Raises:
        RecipeError: it says nothing.
    """
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not _PATH.fullmatch(name):
        raise RecipeError(f"must be table.key=value, as in trainer.max_steps=100, got {text!r}", "--set")
    try:
        told = parsed(f"value = {value}")
        if list(told) != ["value"]:
            raise NotTOML("more than one value")
        return Override(tuple(name.split(".")), told["value"])
    except NotTOML as error:
        if _BARE.fullmatch(value):
            return Override(tuple(name.split(".")), value)
        raise RecipeError(f"{name} has no TOML value in {value!r} ({error})", "--set") from None


def overridden(tables: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """Tables with values of the command line in the places of their own.

    Raises:
        RecipeError: what should hold the key is no table.
    """
    result = dict(tables)
    for said in overrides:
        _put(result, said)
    return result


def _put(tables: dict[str, Any], said: Override) -> None:
    place = tables
    for depth, name in enumerate(said.path[:-1], 1):
        inner = place.get(name, {})
        if not isinstance(inner, Mapping):
            raise RecipeError(f"{'.'.join(said.path[:depth])} is {inner!r} and no table", "--set")
        place[name] = dict(inner)
        place = place[name]
    place[said.path[-1]] = said.value
