"""All tensors that a run on tasks reads besides noise: leaves, what the rule learns, data, and which tasks count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from pyrometa import nest
from pyrometa.engine.problem import Problem
from pyrometa.types import Data, TaskBatch


def own_tensors(problem: Problem, batch: TaskBatch) -> list[Tensor]:
    """The tensors, in the layout in memory that views are recorded for."""
    params = (*problem.leaves.values(), *problem.learned.values())
    counted = () if batch.counted is None else (batch.counted,)
    data = (*data_tensors(batch.support), *data_tensors(batch.query), *counted)
    return [value.contiguous() for value in (*params, *(value.detach() for value in data))]


def on_others(problem: Problem, batch: TaskBatch, given: Iterator[Tensor]) -> tuple[Problem, TaskBatch]:
    """The same on other :func:`own_tensors`."""
    leaves, learned = ({name: next(given) for name in values} for values in (problem.leaves, problem.learned))
    support, query = (_replaced(data, given) for data in (batch.support, batch.query))
    counted = None if batch.counted is None else next(given)
    return replace(problem, leaves=leaves, learned=learned), replace(
        batch, support=support, query=query, counted=counted
    )


def data_tensors(data: Data) -> list[Tensor]:
    """The tensors of data, those of keyword arguments too."""
    return [*data.tensors(), *nest.tensors(data.kwargs)]


def _replaced(data: Data, given: Iterator[Tensor]) -> Data:
    moved = data.on(given)
    return replace(moved, kwargs=nest.replaced(data.kwargs, given))
