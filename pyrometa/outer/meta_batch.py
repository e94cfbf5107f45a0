"""What is computed of a whole meta-batch, by all processes of a run together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrometa.engine import Problem, Runner
from pyrometa.errors import NonFiniteError
from pyrometa.inner import are_finite, cure, read, sums
from pyrometa.internals import foreach_add, foreach_div
from pyrometa.outer.meta_gradient import MetaGradient
from pyrometa.processes import Processes
from pyrometa.types import Params, TaskBatch


@dataclass(frozen=True)
class Loss:
    """The mean query loss of a meta-batch.

    Attributes:
        tensor: shape ``()``.
        number: what it holds, which has been read.
    """

    tensor: Tensor
    number: float

    def item(self) -> float:
        """The number, for which no device is waited."""
        return self.number


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
    grads: Params = {}
    losses: list[tuple[tuple[int, ...], Tensor]] = []
    with processes.all_or_none():
        for index, (some_losses, some_grads) in runner.run(problem, processes.share(tasks), meta_gradient):
            grads = _sum(grads, some_grads)
            losses.append((index, some_losses))
    grads = _of_all(grads, problem.outer)
    if processes.count > 1:
        grads = {name: grad.clone() for name, grad in grads.items()}
        processes.sum_up(list(grads.values()))
    count = sum(len(group) for group in tasks)
    return processes.gathered(losses, count), mean_of(grads, count)


def mean_of(grads: Params, count: int) -> Params:
    """Gradients of a sum over so many tasks as those of the mean, in memory of their own."""
    return dict(zip(grads, foreach_div(list(grads.values()), count), strict=True)) if grads else {}


def of_replay(losses: Tensor, grads: Params, problem: Problem, besides: Iterable[Tensor]) -> tuple[Loss, Params] | None:
    """What is computed of a meta-batch that was replayed as a whole, all of it read at once.

    Args:
        losses: query loss of each task, shape ``(tasks,)``.
        grads: the gradient of their sum by name.
        problem: what adapted, and how.
        besides: what else has to be finite.

    Returns:
        The loss and the meta-gradient; None where a number is not finite, or a sum of numbers.
    """
    mean = losses.mean()
    number, *others = read([mean, *sums([losses, *grads.values(), *besides])])
    if not are_finite((number, *others)):
        return None
    return Loss(mean, number), mean_of(_of_all(grads, problem.outer), len(losses))


def _sum(grads: Params, more: Params) -> Params:
    """The sum by name, in the memory of neither."""
    both = [name for name in more if name in grads]
    if not both:
        return {**grads, **more}
    added = foreach_add([grads[name] for name in both], [more[name] for name in both])
    return {**grads, **more, **dict(zip(both, added, strict=True))}


def _of_all(grads: Mapping[str, Tensor], leaves: Params) -> Params:
    """A gradient for each leaf, zero for one that the loss does not depend on."""
    return {name: grads[name] if name in grads else torch.zeros_like(leaf) for name, leaf in leaves.items()}


def scores(
    runner: Runner, problem: Problem, tasks: Sequence[TaskBatch], at: Collection[int], processes: Processes
) -> Tensor:
    """Query losses of shape ``(len(at), tasks)`` after several numbers of inner steps; errors as above."""
    with processes.all_or_none():
        own = runner.scores(problem, processes.share(tasks), at)
    rows = [((task,), losses[None]) for task, losses in own.items()]
    return processes.gathered(rows, sum(len(group) for group in tasks), (len(at),)).T.contiguous()


def checked_loss(losses: Tensor, grads: Params, problem: Problem) -> Loss:
    """The loss of a meta-batch, if it can be learned from: refuses numbers that are not finite.

    Args:
        losses: query loss of each task, shape ``(tasks,)``.
        grads: meta-gradient by name.
        problem: what adapted, and how.

    Returns:
        The mean of the losses.

    Raises:
        NonFiniteError: naming the task, or the parameter.
    """
    mean = losses.mean()
    number, *others = read([mean, *sums([losses, *grads.values()])])
    if are_finite(others):
        return Loss(mean, number)
    if not torch.isfinite(losses).all():
        task, steps = int((~torch.isfinite(losses)).nonzero()[0]), problem.steps
        raise NonFiniteError(
            f"task {task}: the query loss after {steps} steps is {losses[task].item():g}: {cure(problem.rule)}",
            task,
            steps,
        )
    for name, grad in grads.items():
        if not torch.isfinite(grad).all():
            raise NonFiniteError(
                f"the meta-gradient of {name!r} is not finite, though all losses are: look for a root, a logarithm or "
                "a norm at 0 in the program, or try double precision",
                parameter=name,
            )
    return Loss(mean, number)
