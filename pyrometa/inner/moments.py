"""Moving averages of gradients and their squares, differentiable everywhere."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyrometa.inner.steps import by_step
from pyrometa.types import Params


def zeros(params: Mapping[str, Tensor]) -> Params:
    """Moving averages before the first gradient."""
    return {name: torch.zeros_like(p) for name, p in params.items()}


def averaged(old: Mapping[str, Tensor], new: Mapping[str, Tensor], decay: float) -> Params:
    """Exponential moving averages: ``decay * old + (1 - decay) * new``."""
    return {name: decay * old[name] + (1 - decay) * value for name, value in new.items()}


def unbiased(average: Tensor, decay: float, step: int | Tensor) -> Tensor:
    """An average without the bias of its start at zero: over the sum of the weights that it has given so far."""
    return average / by_step(1 - decay ** (step + 1), average)


def magnitude(squares: Tensor, decay: float, step: int | Tensor, eps: float) -> Tensor:
    """Adam's denominator: the root of the unbiased average of squares, plus ``eps``."""
    return _root(squares) / by_step((1 - decay ** (step + 1)) ** 0.5, squares) + eps


def _root(squares: Tensor) -> Tensor:
    """The square root, whose derivative at 0 is 0 instead of infinite."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
