"""Does the vectorised pass say what the reference says?

Both are run in double precision, single-precision programs too, so that a loss that is a little wrong can't pass for
rounding: equal then means to 1e-7 of its size. Only where a program can't be run in double precision (it writes into
its own single-precision tensors, or rounds by itself) is it compared in single, to 2e-2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.atomic.untouched import left_alone
from pyrometa.engine.batch import BatchPath, side_by_side
from pyrometa.engine.other_padding import refilled
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem, Run, TaskPath
from pyrometa.errors import NonFiniteError
from pyrometa.explain.reasons import told
from pyrometa.inner import GradientOrder, adapt, all_finite
from pyrometa.rewrites.promoted import Promoted, promoted
from pyrometa.types import Data, Params, StepNoise, TaskBatch, TaskData

_DIFFERS = "the vectorised loss or gradient differs from the reference"
_STEPS = 2
"""Enough to pass through every part of a step; more would let rounding grow where the rates are near instability."""

_DOUBLE, _SINGLE = 1e-7, 2e-2  # in single precision a unit at its kink may fall on either side in one row


class UnprovedError(Exception):
    """The reference is not finite on these tasks, so that they prove nothing."""


class _RefusedError(Exception):
    """The vectorised pass fails; the message says why."""


def trial(problem: Problem, tasks: TaskBatch, order: GradientOrder, plan: Plan) -> str | None:
    """Run some tasks vectorised and one by one for a step or two, and compare losses and gradients.

    A program that makes draws of its own is only run: its numbers differ by design.

    Returns:
        Why the vectorised pass can't be used, or None if it can.

    Raises:
        NonFiniteError: a task of the reference diverges, as it would in the run itself.
        UnprovedError: the reference's loss or gradient is not finite.
    """
    problem = replace(problem, steps=min(problem.steps, _STEPS))
    with torch.random.fork_rng(), left_alone(problem.program):
        if any(value.dtype is torch.float32 for value in _tensors(problem, tasks)):
            try:
                with Promoted():
                    return _compared(_promoted_problem(problem), _promoted_batch(tasks), order, plan)
            except Exception as error:  # of the precision; what is not is raised again in single
                check_interrupt(error)
        try:
            return _compared(problem, tasks, order, plan)
        except _RefusedError as error:
            return str(error)


def trial_of_padding(
    problem: Problem, tasks: TaskBatch, some: TaskBatch, order: GradientOrder, plan: Plan
) -> str | None:
    """:func:`trial` on as much padding as the plan may ever serve, made of other rows; None for tasks without any.

    ``some`` of the tasks are tried, on rows of all of them.

    The rows that count are altered as well, where the reference runs on what comes out.
    """
    reason = None
    for altered in (True, False):
        try:
            other = refilled(problem.program, tasks, some.unpadded, altered=altered)
            return None if other is None else trial(problem, other, order, plan)
        except Exception as error:  # whatever the program raises is the reason
            check_interrupt(error)
            reason = f"on fewer rows it fails, {told(problem.program, error)}"
    return reason


def _compared(problem: Problem, tasks: TaskBatch, order: GradientOrder, plan: Plan) -> str | None:
    before = torch.get_rng_state()
    expected = [_result(problem, TaskPath(problem, task, order)) for task in tasks.tasks()]
    draws_its_own = not torch.equal(before, torch.get_rng_state())
    total = [torch.stack(parts).sum(0) for parts in zip(*expected, strict=True)]
    try:
        found = side_by_side(partial(_result, problem), BatchPath(problem, tasks, order, plan), thorough=True)
    except NonFiniteError as error:
        raise _RefusedError(told(problem.program, _DIFFERS)) from error
    except Exception as error:  # whatever vmap or the program raises is the reason
        check_interrupt(error)
        raise _RefusedError(told(problem.program, error)) from error
    if not all_finite(total):
        raise UnprovedError("the reference is not finite")
    if draws_its_own:
        unproved = "its draws can't be made ahead, so that nothing proves the padding"
        return told(problem.program, unproved) if tasks.unpadded else None
    if all(agree(f, t, double=_DOUBLE, single=_SINGLE) for f, t in zip(found, total, strict=True)):
        return None
    return told(problem.program, _DIFFERS)


def _result(problem: Problem, path: Run) -> list[Tensor]:
    """Summed query loss after the last step and, where it has them, its gradients."""
    leaves = list(problem.outer.values())
    for point in adapt(path, problem.steps):
        end = point
    loss = path.score(end).sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else ()
    return [loss.detach(), *(torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=False))]


def agree(found: Tensor, expected: Tensor, *, double: float, single: float) -> bool:
    """Whether the difference's norm is within a tolerance, for the precision of the values, of the expected norm."""
    tolerance = double if expected.dtype == torch.float64 else single
    return bool((found - expected).norm() <= tolerance * expected.norm().clamp(min=1e-6))


def _tensors(problem: Problem, tasks: TaskBatch) -> Iterable[Tensor]:
    sets = (part for data in (tasks.support, tasks.query) for part in (data.args, data.kwargs))
    draws = chain(*tasks.support_noise, tasks.query_noise)
    return chain(problem.leaves.values(), problem.learned.values(), *map(nest.tensors, sets), draws)


def _promoted_problem(problem: Problem) -> Problem:
    leaves, learned = (_promoted_leaves(values) for values in (problem.leaves, problem.learned))
    return replace(problem, leaves=leaves, learned=learned)


def _promoted_leaves(values: Params) -> Params:
    return {name: promoted(value.detach()).requires_grad_(value.requires_grad) for name, value in values.items()}


def _promoted_batch(tasks: TaskBatch) -> TaskBatch:
    return TaskBatch(
        tasks.index,
        _promoted_data(tasks.support),
        _promoted_data(tasks.query),
        _promoted_noise(tasks.support_noise),
        tuple(map(promoted, tasks.query_noise)),
        tuple(_promoted_task(task) for task in tasks.unpadded),
    )


def _promoted_task(task: TaskData) -> TaskData:
    sets = (_promoted_data(task.support), _promoted_data(task.query))
    return TaskData(task.index, *sets, _promoted_noise(task.support_noise), tuple(map(promoted, task.query_noise)))


def _promoted_data(data: Data) -> Data:
    return replace(data, args=nest.mapped(promoted, data.args), kwargs=nest.mapped(promoted, data.kwargs))


def _promoted_noise(steps: Iterable[StepNoise]) -> tuple[StepNoise, ...]:
    return tuple(tuple(map(promoted, draws)) for draws in steps)
