"""What has to agree in tasks, and in what is done with them, for one plan or one recording to serve."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyrometa import nest
from pyrometa.engine.problem import Problem
from pyrometa.nest import Same
from pyrometa.types import TaskBatch

_AHEAD = 10_000
"""How many elements of large data are looked at first: mostly they show it already, and the rest is spared."""


def problem_modes(problem: Problem) -> Any:
    """What of a problem has to agree: its rule, what adapts, its steps, its leaves and the program's own switches."""
    leaves = tuple((name, leaf.dtype) for name, leaf in problem.leaves.items())
    return Same(problem.rule), problem.adapted, problem.steps, leaves, problem.program.modes_now()


def may_hide(tasks: TaskBatch) -> tuple[tuple[bool, bool], ...]:
    """What may hide from a trial on padded tasks that a program mixes rows, and may be otherwise in the next tasks.

    The mean of rows that are all alike is the row itself, and what is multiplied by zero is not seen.

    Returns:
        For each tensor, those of keyword arguments too, whether it is all one value, and whether it holds a zero.
    """
    sets = [data for data in (tasks.support, tasks.query) if data.rows]
    parts = [part for data in sets for part in (data.args, dict(data.kwargs))]
    return tuple(_constant_and_zero(tensor) for part in parts for tensor in nest.tensors(part))


def fewest(tasks: TaskBatch) -> tuple[int, ...]:
    """Rows that may count in padded tasks."""
    return tuple(data.rows.fewest for data in (tasks.support, tasks.query) if data.rows)


def _constant_and_zero(tensor: Tensor) -> tuple[bool, bool]:
    values = tensor.flatten()
    parts = values[:_AHEAD], values[_AHEAD:]
    return not any((part != values[:1]).any() for part in parts), not all(part.all() for part in parts)
