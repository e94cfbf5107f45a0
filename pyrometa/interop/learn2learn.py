"""learn2learn's wrappers in the guide's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wrapped:
    """What a learn2learn wrapper says: the guide it wraps, and how to adapt it."""

    guide: Callable[..., Any]
    lr: float
    first_order: bool


def is_wrapper(guide: object) -> bool:
    """Whether ``guide`` is one of learn2learn's algorithms; does not import learn2learn."""
    return any(base.__module__.startswith("learn2learn.algorithms") for base in type(guide).__mro__)


def unwrap(guide: Any) -> Wrapped:
    """Read the rule from ``learn2learn.algorithms.MAML(guide, lr)``.

    Raises:
        TypeError: another wrapper than MAML.
    """
    from learn2learn.algorithms import MAML

    if not isinstance(guide, MAML):
        raise TypeError(
            f"learn2learn's {type(guide).__name__} is not supported in the guide's place: wrap the guide in "
            "learn2learn.algorithms.MAML, or give the guide itself and inner=pyrometa.SGD(lr, learn=...)"
        )
    return Wrapped(guide.module, float(guide.lr), bool(guide.first_order))
