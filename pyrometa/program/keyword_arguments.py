"""Keyword arguments that only a custom loss or score takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pyro.infer.elbo import ELBO

from pyrometa.types import Data


def for_program(
    data: Data, objectives: Iterable[Any], model: Callable[..., Any], objective: Callable[..., Any] | None = None
) -> Data:
    """The data for model and guide, without what a custom loss or score takes by keyword and the model does not.

    Args:
        data: with all keyword arguments.
        objectives: the loss and the score; None for the default.
        model: the model.
        objective: the one of them that is to hand the data on, and keeps what is its own.
    """
    functions = [one for one in objectives if not isinstance(one, ELBO | None)]
    own = {name for one in functions for name in _named(one)}.intersection(data.kwargs)
    if not own:
        return data
    dropped = own - _named(getattr(model, "forward", model)) - (_named(objective) if objective else set())
    return replace(data, kwargs={k: v for k, v in data.kwargs.items() if k not in dropped}) if dropped else data


def _named(function: Callable[..., Any]) -> set[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a callable without one
        return set()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
