"""Run single-precision code in double precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from pyrometa.functional.twice import TWICE


class NotPromotableError(Exception):
    """The code writes into a tensor of single precision that it did not make."""


class Promoted(TorchFunctionMode):
    """Within it, every single-precision tensor that is used or made is in double precision.

    Raises:
        NotPromotableError: the code writes into a single-precision tensor from outside, of which it would see a copy.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _writes(func, args, kwargs):
            raise NotPromotableError(getattr(func, "__name__", str(func)))
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return promoted(TWICE.get(func, func)(*promoted(args), **promoted(kwargs)))


def promoted(value: Any) -> Any:
    """The same nest with double-precision tensors, and types, in the place of single-precision ones."""
    return tree_map(_promoted, value)


def _promoted(value: Any) -> Any:
    if value is torch.float32:
        return torch.float64
    return value.double() if _is_single(value) else value


def _is_single(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float32


def _writes(func: Any, args: Any, kwargs: Any) -> bool:
    name = getattr(func, "__name__", "")
    in_place = name == "__setitem__" or name == "__set__" or (name.endswith("_") and not name.endswith("__"))
    return (in_place and bool(args) and _is_single(args[0])) or _is_single(kwargs.get("out"))
