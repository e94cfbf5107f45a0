"""Keyword arguments that only a custom loss takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pyro.infer.elbo import ELBO

from pyrometa.types import Data


def for_program(data: Data, objectives: Iterable[Any], model: Callable[..., Any]) -> Data:
    """The data for model and guide, without what a custom loss or score takes by keyword and the model does not."""
    own = {name for one in objectives if not isinstance(one, ELBO) for name in _named(one)}
    dropped = own.intersection(data.kwargs) - _named(getattr(model, "forward", model))
    return replace(data, kwargs={k: v for k, v in data.kwargs.items() if k not in dropped}) if dropped else data


def _named(function: Callable[..., Any]) -> set[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a callable without one
        return set()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
