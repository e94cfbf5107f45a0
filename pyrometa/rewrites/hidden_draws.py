"""Torch's functions that draw inside, in terms of functions whose draws are seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrometa.rewrites.unfolded import unfolded


def _rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    slope = torch.empty_like(input).uniform_(lower, upper) if training else (lower + upper) / 2
    result = torch.where(input > 0, input, input * slope)
    return input.copy_(result) if inplace else result


def _rrelu_in_place(input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Tensor:
    return _rrelu(input, lower, upper, training, inplace=True)


def _native_dropout(input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    kept = F.dropout(torch.ones_like(input), p, train is not False)
    return input * kept, kept != 0


def _randint(*given: Any, dtype: torch.dtype | None = None, device: Any = None, **named: Any) -> Tensor:
    *limits, size = (*given, named["size"]) if "size" in named else given
    return _integers(limits, named, size, dtype or torch.int64, device)


def _randint_like(
    input: Tensor, *limits: Any, dtype: torch.dtype | None = None, device: Any = None, **named: Any
) -> Tensor:
    return _integers(limits, named, input.shape, dtype or input.dtype, device or input.device)


def _integers(limits: Sequence[int], named: Any, size: Any, dtype: torch.dtype, device: Any) -> Tensor:
    """Whole numbers below the last limit given; from the one before it, or from 0 where there is a single one."""
    last = [named["high"]] if "high" in named else []
    low, high = (named.get("low", 0), *limits, *last)[-2:]
    return (low + torch.rand(size, dtype=torch.float64, device=device) * (high - low)).floor().to(dtype)


def _random_in_place(target: Tensor, *limits: Any, **named: Any) -> Tensor:
    below = [named["to"]] if "to" in named else []
    given = (*limits, *below) or (_most(target.dtype) + 1,)
    return target.copy_(_integers(given, {"low": named.get("from", 0)}, target.shape, target.dtype, target.device))


def _most(dtype: torch.dtype) -> int:
    """The largest whole number up to which a type can hold every whole number."""
    return int(2 / torch.finfo(dtype).eps) if dtype.is_floating_point else torch.iinfo(dtype).max


HIDDEN_DRAWS: dict[Any, Callable[..., Any]] = {
    F.rrelu: _rrelu,
    torch.rrelu: _rrelu,
    torch.rrelu_: _rrelu_in_place,
    F.gumbel_softmax: unfolded(F.gumbel_softmax),
    torch.native_dropout: _native_dropout,
    torch.randint: _randint,
    torch.randint_like: _randint_like,
    torch.Tensor.random_: _random_in_place,
}
"""The same functions. What they draw is drawn by functions that a function mode in force sees, and can answer."""
