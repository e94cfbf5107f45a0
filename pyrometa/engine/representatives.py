"""A few of many units (tasks, or rows) that between them show each column vary that varies at all."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_MOST = 8


def telling(columns: Iterable[Tensor], most: int = _MOST) -> list[int]:
    """The first two units, and others in which a column varies that is constant in those chosen so far.

    Whether a number is zero, as a missing one may be, counts as a column too.

    Args:
        columns: tensors of shape ``(units, rows, columns)``.
        most: how many units to choose at most.

    Returns:
        Positions of the units, in the order of their choice.
    """
    varies = torch.cat([_differs(mark).cpu() for values in columns for mark in (values, values == 0)], 1)
    chosen = list(range(min(2, most, len(varies))))
    while len(chosen) < most:
        hidden = varies.any(0) & ~varies[chosen].any(0)
        if not hidden.any():
            break
        chosen.append(int(varies[:, hidden].sum(1).argmax()))
    return chosen


def _differs(values: Tensor) -> Tensor:
    """For each unit, the columns in which some row of it differs from the first row of the first unit."""
    return (values != values[:1, :1]).any(1)
