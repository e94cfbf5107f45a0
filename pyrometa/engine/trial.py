"""Does the vectorised pass say what the reference says?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pyrometa.engine.batch import BatchPath, side_by_side
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem, Run, TaskPath
from pyrometa.errors import UnsupportedProgramError, in_short
from pyrometa.inner import Order, adapt, all_finite
from pyrometa.types import TaskBatch

_STEPS = 2
"""Enough to pass through every part of a step; more would let rounding grow where the rates are near instability."""


def trial(problem: Problem, tasks: TaskBatch, order: Order, plan: Plan) -> str | None:
    """Run some tasks vectorised and one by one for a step or two, and compare losses and gradients.

    A program that makes draws of its own is only run: its numbers differ by design. A task that diverges is for the run
    itself to report.

    Returns:
        Why the vectorised pass can't be used, or None if it can.

    Raises:
        NonFiniteError: a task of the reference diverges, as it would in the run itself.
    """
    problem = replace(problem, steps=min(problem.steps, _STEPS))
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        expected = [_result(problem, TaskPath(problem, task, order)) for task in tasks.tasks()]
        draws_its_own = not torch.equal(before, torch.get_rng_state())
        try:
            found = side_by_side(partial(_result, problem), BatchPath(problem, tasks, order, plan), thorough=True)
        except UnsupportedProgramError as error:
            return str(error)
        except Exception as error:  # whatever vmap or the program raises is the reason
            return in_short(error)
    total = [torch.stack(parts).sum(0) for parts in zip(*expected, strict=True)]
    if draws_its_own or not all_finite(total):
        return None
    # In single precision a unit at its kink may fall on either side in one row.
    if all(agree(f, t, double=1e-7, single=2e-2) for f, t in zip(found, total, strict=True)):
        return None
    return "the vectorised loss or gradient differs from the reference"


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
