"""The two ways to watch a value: by the identity of its parts, or by a copy of what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

PLAIN = frozenset({
    bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), range, torch.dtype,
    torch.device, torch.layout, torch.memory_format, torch.Size,
})  # fmt: skip
"""Types, and not those derived from them, whose objects never change and say all that they are when compared."""

NamedParts = Callable[[Any], list[tuple[str, Any]]]
"""Lists the parts of a value, each under its name."""


@dataclass(frozen=True)
class ByParts:
    """A way to watch a value: by its parts, each of which is watched in turn.

    Attributes:
        named: the parts, by name.
        flat: a list that holds the same objects for as long as the parts are the same.
        tag: what else is compared of the value, its type or its identity.
        later: parts that count only if some code names them, by that name.
    """

    named: NamedParts
    flat: Callable[[Any], list[Any]]
    tag: Any
    later: NamedParts | None = None


@dataclass(frozen=True)
class ByCopy:
    """A way to watch a value: by a copy of what it holds.

    Attributes:
        copied: the copy.
        tag: what else is compared of the value, its type or its identity.
        comparing: given a value and its copy, a quicker way to compare them than by another copy; None without one.
    """

    copied: Callable[[Any], Any]
    tag: Any
    comparing: Callable[[Any, Any], Callable[[], bool]] | None = None


def of_parts(named: NamedParts, value: Any) -> ByParts:
    """A value of named parts, which are listed anew at each look."""
    return ByParts(named, lambda v: [part for _, part in named(v)], type(value))


def no_parts(value: Any) -> list[Any]:
    """The parts of what has none."""
    return []
