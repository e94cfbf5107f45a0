"""A problem and its tasks in double precision, whatever their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.engine.problem import Problem
from pyrometa.rewrites.promoted import promoted
from pyrometa.types import Data, Params, StepNoise, TaskBatch


def has_single(problem: Problem, tasks: TaskBatch) -> bool:
    """Whether a parameter, a datum or a draw is in single precision."""
    sets = (part for data in (tasks.support, tasks.query) for part in (data.args, data.kwargs))
    draws = chain(*tasks.support_noise, tasks.query_noise)
    tensors = chain(problem.leaves.values(), problem.learned.values(), *map(nest.tensors, sets), draws)
    return any(value.dtype is torch.float32 for value in tensors)


def promoted_problem(problem: Problem) -> Problem:
    """The problem on promoted copies of the leaves, and of what the rule learns."""
    return replace(problem, leaves=_parameters(problem.leaves), learned=_parameters(problem.learned))


def promoted_batch(tasks: TaskBatch) -> TaskBatch:
    """The tasks, also as they are unpadded, with promoted data and noise."""
    return replace(
        tasks,
        support=_data(tasks.support),
        query=_data(tasks.query),
        support_noise=_steps(tasks.support_noise),
        query_noise=_draws(tasks.query_noise),
        unpadded=tuple(map(promoted_batch, tasks.unpadded)),
    )


def _parameters(values: Params) -> Params:
    return {name: promoted(value.detach()).requires_grad_(value.requires_grad) for name, value in values.items()}


def _data(data: Data) -> Data:
    return replace(data, args=nest.mapped(promoted, data.args), kwargs=nest.mapped(promoted, data.kwargs))


def _steps(steps: Iterable[StepNoise]) -> tuple[StepNoise, ...]:
    return tuple(map(_draws, steps))


def _draws(draws: StepNoise) -> tuple[Tensor, ...]:
    return tuple(map(promoted, draws))
