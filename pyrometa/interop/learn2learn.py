"""learn2learn's wrappers in the guide's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrometa.inner import SGD, InnerRule
from pyrometa.outer import MetaGradient, Unrolled


def is_wrapper(guide: object) -> bool:
    """Whether ``guide`` is one of learn2learn's algorithms; does not import learn2learn."""
    return any(base.__module__.startswith("learn2learn.algorithms") for base in type(guide).__mro__)


def unwrapped(
    guide: Callable[..., Any], inner: InnerRule | None, meta_gradient: MetaGradient | None
) -> tuple[Callable[..., Any], InnerRule | None, MetaGradient | None]:
    """Read guide, rule and order from ``learn2learn.algorithms.MAML(guide, lr)``; anything else passes through.

    Raises:
        TypeError: another wrapper than MAML.
        ValueError: a wrapper together with an inner rule.
    """
    if not is_wrapper(guide):
        return guide, inner, meta_gradient
    if inner is not None:
        raise ValueError(
            f"the guide is a learn2learn {type(guide).__name__}, which brings its own inner rule: "
            "drop inner=, or give the guide without the wrapper"
        )
    from learn2learn.algorithms import MAML

    if not isinstance(guide, MAML):
        raise TypeError(
            f"learn2learn's {type(guide).__name__} is not supported in the guide's place: wrap the guide in "
            "learn2learn.algorithms.MAML, or give the guide itself and inner=pyrometa.SGD(lr, learn=...)"
        )
    return guide.module, SGD(float(guide.lr)), meta_gradient or Unrolled(first_order=bool(guide.first_order))
