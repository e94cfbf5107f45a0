"""Which of many tasks or rows to try, so that they show all that is seen to vary.

A trial of two tasks proves nothing of a column that is constant in both: a mask whose first gap is in the fourth task,
a group that first occurs in the sixth. All tasks would, and cost as much as the run itself; so a few are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.types import TaskBatch

_MOST = 8


def to_try(tasks: TaskBatch) -> TaskBatch:
    """The first two tasks, and of padded ones those that show what may be mixed, such as where a value is missing."""
    if not tasks.unpadded:
        return tasks[:2]
    columns = []
    for data in (tasks.support, tasks.query):
        have_rows = data.rows.padded if data.rows else ()
        for tensor, has_rows in zip(nest.tensors(data.args), have_rows, strict=True):
            columns.append(tensor.reshape(*(tensor.shape[:2] if has_rows else (len(tasks), 1)), -1))
    return tasks.chosen(telling(columns))


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
        not_shown = varies.any(0) & ~varies[chosen].any(0)
        if not not_shown.any():
            break
        chosen.append(int(varies[:, not_shown].sum(1).argmax()))
    return chosen


def _differs(values: Tensor) -> Tensor:
    """Where a unit has a row that differs from the first row of the first unit, shape ``(units, columns)``."""
    return (values != values[:1, :1]).any(1)
