"""Gradients by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from pyrometa.types import Params

Made: TypeAlias = tuple[Tensor, Params]
"""Query losses of some tasks, shape ``(tasks,)``, and the gradient of their sum by name."""


def of_first(made: Made, tasks: int) -> Made:
    """The losses of the first tasks, and the gradient, to which the others add nothing."""
    losses, grads = made
    return losses[:tasks], grads


def gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> Params:
    """The gradient of a scalar loss for every leaf that it depends on, by name."""
    if not (leaves and loss.requires_grad):
        return {}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}
