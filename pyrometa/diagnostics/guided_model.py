"""The model that a guide is for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide.initialization import InitMessenger


def model_of(guide: Any, model: Callable[..., Any] | None, asked: str) -> Callable[..., Any]:
    """The model given, or ``guide.model``: of an autoguide without the handler that starts its latent sites.

    ``AutoNormal(model).model`` and its kind draw each latent site at the value that the guide starts from.

    Raises:
        TypeError: there is none, or the guide is none.
    """
    if not callable(guide):
        raise TypeError(f"guide must be callable, got {type(guide).__name__}: give {asked}(meta.adapt(task), ...)")
    found = getattr(guide, "model", None) if model is None else model
    if not callable(found):
        raise TypeError(f"{type(guide).__name__} has no model: give {asked}(guide, ..., model=model)")
    handled = getattr(found, "func", None)
    if model is None and isinstance(handled, functools.partial) and isinstance(handled.args[0], InitMessenger):
        within: Callable[..., Any] = handled.args[1]
        return within
    return found


def check_meta(meta: Any) -> None:
    """Refuse what can't adapt to tasks.

    Raises:
        TypeError: it can't.
    """
    if not hasattr(meta, "adapt_many"):
        raise TypeError(f"meta must be a MetaSVI, got {type(meta).__name__}")
