"""How containers are watched: by what they hold, and by what a class that is derived from them adds."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from pyrometa.recording.watch.classes import attributes
from pyrometa.recording.watch.ways import PLAIN, ByParts

_BARE = frozenset({dict, list, tuple, set, frozenset, collections.OrderedDict, collections.deque})


def mapping(value: Any, path: str) -> ByParts:
    """Keys, values, and what a derived class adds."""
    return ByParts(_items, lambda v: [*v, *v.values(), *_state(v)], type(value))


def _items(value: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """The values under their keys; a key that is an object of its own goes by its position, and is looked into, too."""
    keys = [(f"keys[{i}]", key) for i, key in enumerate(value) if type(key) not in PLAIN]
    shown = [key if type(key) in PLAIN else i for i, key in enumerate(value)]
    items = [(f"[{key!r}]", item) for key, item in zip(shown, value.values(), strict=True)]
    return [*items, *keys, *_extra(value)]


def sequence(value: Any, path: str) -> ByParts:
    """Elements in their order, and what a derived class adds."""

    def named(v: Any) -> list[tuple[str, Any]]:
        return [*((f"[{i}]", item) for i, item in enumerate(v)), *_extra(v)]

    return ByParts(named, lambda v: [*v, *_state(v)], type(value))


def _extra(container: Any) -> list[tuple[str, Any]]:
    """What a subclass of a container adds to it."""
    if type(container).__module__ not in ("builtins", "collections"):
        return attributes(container)
    return [("default_factory", container.default_factory)] if hasattr(container, "default_factory") else []


def _state(container: Any) -> list[Any]:
    """What a subclass adds, without names; of the built-in containers nothing, which need not be asked."""
    return [] if type(container) in _BARE else [part for _, part in _extra(container)]
