"""Gradients by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyrometa.types import Params


def gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> Params:
    """The gradient of a scalar loss for every leaf that it depends on, by name."""
    if not (leaves and loss.requires_grad):
        return {}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}
