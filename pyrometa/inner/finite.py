"""Whether numbers are finite, asked cheaply."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether the sum of all elements is finite: then each element is. False asks for a closer look."""
    return bool(torch.isfinite(torch.stack([tensor.detach().sum() for tensor in tensors]).sum()))
