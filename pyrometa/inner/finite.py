"""Whether numbers are finite, asked cheaply."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all elements are finite, by their sum: if that is, each of them is.

    The sum of finite numbers may overflow, so that False says that a closer look is needed.
    """
    return bool(torch.isfinite(torch.stack([tensor.detach().sum() for tensor in tensors]).sum()))


def bad_rows(values: Tensor, tasks: int) -> Tensor:
    """Of which tasks something in a tensor, whose rows are theirs in order, is not finite; shape ``(tasks,)``."""
    return ~torch.isfinite(values.detach().reshape(tasks, -1)).all(1)
