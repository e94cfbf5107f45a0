"""What is computed of a whole meta-batch, by all processes of a run together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from pyrometa.engine import Problem, Runner
from pyrometa.errors import NonFiniteError
from pyrometa.inner import all_finite, cure
from pyrometa.internals import foreach_add_, foreach_div_
from pyrometa.outer.meta_gradient import MetaGradient
from pyrometa.processes import Processes
from pyrometa.types import Params, TaskBatch


def loss_and_grads(
    meta_gradient: MetaGradient,
    runner: Runner,
    problem: Problem,
    tasks: Sequence[TaskBatch],
    processes: Processes,
) -> tuple[Tensor, Params]:
    """Query loss of each task of a meta-batch, and the gradient of its mean for all that the outer loop learns.

    Args:
        meta_gradient: how the outer loop learns.
        runner: how tasks are run.
        problem: what adapts, and how.
        tasks: the meta-batch.
        processes: those that compute it together.

    Returns:
        Losses of shape ``(tasks,)`` in the order of the meta-batch, and gradients by name.

    Raises:
        NonFiniteError: of this process or another, in all of them.
        ProcessError: another process failed.
    """
    grads = {name: torch.zeros_like(leaf) for name, leaf in problem.outer.items()}
    losses: list[tuple[tuple[int, ...], Tensor]] = []
    with processes.all_or_none():
        for index, (some_losses, some_grads) in runner.run(problem, processes.share(tasks), meta_gradient):
            if some_grads:
                foreach_add_([grads[name] for name in some_grads], list(some_grads.values()))
            losses.append((index, some_losses))
    processes.sum_up(list(grads.values()))
    count = sum(len(group) for group in tasks)
    if grads:
        foreach_div_(list(grads.values()), count)
    return processes.gathered(losses, count), grads


def scores(
    runner: Runner, problem: Problem, tasks: Sequence[TaskBatch], at: Collection[int], processes: Processes
) -> Tensor:
    """Query losses of shape ``(len(at), tasks)`` after several numbers of inner steps; errors as above."""
    with processes.all_or_none():
        own = runner.scores(problem, processes.share(tasks), at)
    rows = [((task,), losses[None]) for task, losses in own.items()]
    return processes.gathered(rows, sum(len(group) for group in tasks), (len(at),)).T.contiguous()


def check_finite(losses: Tensor, grads: Params, problem: Problem) -> None:
    """Refuse to learn from numbers that are not finite.

    Args:
        losses: query loss of each task, shape ``(tasks,)``.
        grads: meta-gradient by name.
        problem: what adapted, and how.

    Raises:
        NonFiniteError: naming the task, or the parameter.
    """
    if all_finite([losses, *grads.values()]):
        return
    if not torch.isfinite(losses).all():
        task, steps = int((~torch.isfinite(losses)).nonzero()[0]), problem.steps
        raise NonFiniteError(
            f"task {task}: the query loss after {steps} steps is {losses[task].item():g}: {cure(problem.rule)}",
            task,
            steps,
        )
    for name, grad in grads.items():
        if not torch.isfinite(grad).all():
            raise NonFiniteError(f"the meta-gradient of {name!r} is not finite", parameter=name)
