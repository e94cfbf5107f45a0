"""Whether numbers are finite, asked cheaply."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all elements are finite, by their sum: if that is, each of them is.

    The sum of finite numbers may overflow, so that False says that a closer look is needed.
    """
    return are_finite(read(sums(tensors)))


_HALF = (torch.float16, torch.bfloat16)
"""Types in which a sum of finite numbers is soon infinite."""


def sums(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The sum of each tensor that may hold what is not finite, or its size if it is complex: all are read as real."""
    held = [tensor.detach() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    found = [x.sum(dtype=torch.float32 if x.dtype in _HALF else None) for x in held]
    return [total.abs() if total.is_complex() else total for total in found]


def read(scalars: Sequence[Tensor]) -> list[Any]:
    """The numbers that tensors of shape ``()`` hold: a device is waited for once, whatever their number."""
    devices = list(dict.fromkeys(scalar.device for scalar in scalars))
    if len(devices) > 1:
        scalars = [scalar.cpu() for scalar in scalars]
    return torch.stack(list(scalars)).tolist() if scalars else []


def are_finite(numbers: Iterable[Any]) -> bool:
    """Whether numbers are finite."""
    return all(map(math.isfinite, numbers))


def bad_rows(values: Tensor, tasks: int) -> Tensor:
    """Of which tasks something in a tensor, whose rows are theirs in order, is not finite; shape ``(tasks,)``."""
    return ~torch.isfinite(values.detach().reshape(tasks, -1)).all(1)
