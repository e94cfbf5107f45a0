"""Refuse arguments that the model does not take, or may take for something else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyrometa.types import Data


def check_list(model: Callable[..., Any], name: str, given: Any) -> None:
    """Refuse a list that may as well be the model's arguments, as the default batch ``[x, y]`` of a DataLoader is.

    A model whose second argument has a default (``y=None``) could be run on either reading.

    Raises:
        TypeError: naming the argument, with the model's signature and the cure.
    """
    signature = _signature(model)
    if signature is None or not isinstance(given, list) or not all(isinstance(part, Tensor) for part in given):
        return
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    positional = kinds.count(inspect.Parameter.POSITIONAL_ONLY) + kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(given) == positional > 1 and len({part.shape[:1] for part in given}) == 1:
        raise TypeError(
            f"{name} is a list of as many tensors as a model of {signature} takes, all of {len(given[0])} rows: a list "
            "is tasks, so use a tuple, tuple(batch), if it holds the model's arguments, as a DataLoader's batch does, "
            "or make each task a tuple, [(x,) for x in tasks]"
        )


def check_call(model: Callable[..., Any], data: Data) -> None:
    """Refuse data that the model does not take for its arguments.

    Raises:
        TypeError: with the model's signature and the cure.
    """
    signature = _signature(model)
    if signature is None:
        return
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    kwargs = {key: value for key, value in data.kwargs.items() if takes_any or key in signature.parameters}
    try:
        signature.bind(*data.args, **kwargs)
    except TypeError as error:
        count = f"{len(data.args)} argument{'' if len(data.args) == 1 else 's'}"
        raise TypeError(
            f"a task holds {count} for a model of {signature}, {error}: a tuple is the model's arguments, a list is "
            "tasks, and anything else is one argument, so use a tuple, tuple(batch), for a DataLoader's batch [x, y]"
        ) from None


def _signature(model: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(getattr(model, "forward", model), follow_wrapped=False)
    except (TypeError, ValueError):  # of a callable without one
        return None
