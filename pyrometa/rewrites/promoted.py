"""Run single-precision code in double precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrometa.rewrites.twice import TWICE


class NotPromotableError(Exception):
    """The code writes into a tensor of single precision that it did not make."""


class Promoted(TorchFunctionMode):
    """Within it, every single-precision tensor that is used or made is in double precision.

    Raises:
        NotPromotableError: the code writes into a single-precision tensor from outside, of which it would see a copy,
            or rounds to single precision by itself.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # what a tensor is, such as a leaf, not its double
            return promoted(func(*args))
        given = {key: promoted(value) for key, value in kwargs.items()} if kwargs else {}
        if _writes(func, args, kwargs or {}):
            raise NotPromotableError(getattr(func, "__name__", str(func)))
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        result = TWICE.get(func, func)(*map(promoted, args), **given)
        if _is(result, torch.float32) and any(_is(value, torch.float64) for value in map(promoted, args)):
            raise NotPromotableError(getattr(func, "__name__", str(func)))
        return promoted(result)


def promoted(value: Any) -> Any:
    """A double-precision tensor, or type, for a single-precision one, also in tuples and lists."""
    if isinstance(value, Tensor):
        return value.double() if _is(value, torch.float32) else value
    if type(value) in (tuple, list):
        return type(value)(map(promoted, value))
    return torch.float64 if value is torch.float32 else value


def _is(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype is dtype


def _writes(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a function writes into a single-precision tensor."""
    name = getattr(func, "__name__", "")
    in_place = name in ("__setitem__", "__set__") or (name.endswith("_") and not name.endswith("__"))
    targets = (*(args[:1] if in_place else ()), kwargs.get("out"))
    return any(_is(target, torch.float32) for target in targets)
