"""Does the vectorised pass say what the reference says?

Both are run in double precision, single-precision programs too, so that a loss that is a little wrong can't pass for
rounding: equal then means to 1e-7 of its size. Only where a program can't be run in double precision (it writes into
its own single-precision tensors, or rounds by itself) is it compared in single, to 2e-2.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.atomic.untouched import left_alone
from pyrometa.engine.attempt import SideBySideError, attempt
from pyrometa.engine.batch import BatchPath
from pyrometa.engine.in_double import has_single, promoted_batch, promoted_problem
from pyrometa.engine.loop import TaskPath
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem, ScoredPath
from pyrometa.engine.trial_padding import refilled
from pyrometa.errors import NonFiniteError
from pyrometa.explain.reasons import told
from pyrometa.inner import GradientOrder, adapt, all_finite
from pyrometa.recording.agreement import agree
from pyrometa.rewrites.promoted import Promoted
from pyrometa.types import TaskBatch

_DIFFERS = "the vectorised loss or gradient differs from the reference"
_STEPS = 2
"""Enough to pass through every part of a step; more would let rounding grow where the rates are near instability."""

_DOUBLE, _SINGLE = 1e-7, 2e-2  # in single precision a unit at its kink may fall on either side in one row


class UnprovedError(Exception):
    """The reference is not finite on these tasks, so that they prove nothing."""


class _FailsError(Exception):
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
    with generators.forked(), left_alone(problem.program):
        if has_single(problem, tasks):
            try:
                with Promoted():
                    return _difference(promoted_problem(problem), promoted_batch(tasks), order, plan)
            except Exception as error:  # of the precision; what is not is raised again in single
                check_interrupt(error)
        try:
            return _difference(problem, tasks, order, plan)
        except _FailsError as error:
            return str(error)


def trial_of_padding(
    problem: Problem, tasks: TaskBatch, some: TaskBatch, order: GradientOrder, plan: Plan
) -> str | None:
    """:func:`trial` on as much padding as the plan may ever serve, made of other rows; None for tasks without any.

    The rows that count are altered as well, where the reference runs on what comes out.

    Args:
        problem: what to adapt, and how.
        tasks: whose rows the padding is made of.
        some: those of the tasks that are tried.
        order: how much of the inner loop is differentiated through.
        plan: what is on trial.
    """
    reason = None
    for altered in (True, False):
        try:
            other = refilled(problem.program, tasks, some, altered=altered)
            return None if other is None else trial(problem, other, order, plan)
        except Exception as error:  # whatever the program raises is the reason
            check_interrupt(error)
            reason = f"on fewer rows it fails, {told(problem.program, error)}"
    return reason


def _difference(problem: Problem, tasks: TaskBatch, order: GradientOrder, plan: Plan) -> str | None:
    """In words, how the vectorised pass and the reference differ; None if they agree.

    Raises:
        UnprovedError: the reference is not finite.
        _FailsError: the vectorised pass raises.
    """
    before = generators.states()
    by_task = [_loss_and_grads(TaskPath(problem, task, order)) for task in tasks.tasks()]
    draws_its_own = generators.moved_since(before)
    expected = [torch.stack(parts).sum(0) for parts in zip(*by_task, strict=True)]
    found = _vectorized_loss_and_grads(BatchPath(problem, tasks, order, plan))
    if not all_finite(expected):
        raise UnprovedError("the reference is not finite")
    if draws_its_own:
        unproved = "its draws can't be made ahead, so that nothing proves the padding"
        return told(problem.program, unproved) if tasks.unpadded else None
    if all(agree(f, e, double=_DOUBLE, single=_SINGLE) for f, e in zip(found, expected, strict=True)):
        return None
    return told(problem.program, _DIFFERS)


def _vectorized_loss_and_grads(path: BatchPath) -> list[Tensor]:
    program = path.problem.program
    try:
        return attempt(_loss_and_grads, path, thorough=True)
    except NonFiniteError as error:
        raise _FailsError(told(program, _DIFFERS)) from error
    except SideBySideError as error:
        raise _FailsError(told(program, error.raised)) from error


def _loss_and_grads(path: ScoredPath) -> list[Tensor]:
    """Summed query loss after the last step and, where it has them, its gradients."""
    problem = path.problem
    leaves = list(problem.outer.values())
    for point in adapt(path, problem.steps):
        end = point
    loss = path.score(end).sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else ()
    return [loss.detach(), *(torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=False))]
