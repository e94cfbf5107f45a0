"""What a meta-gradient is: from the path of some tasks' inner loop, their query losses and the gradient of the sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyrometa.engine import PathFunction, Problem, Runner, ScoredPath
from pyrometa.errors import NonFiniteError
from pyrometa.inner import Rule, all_finite, cure
from pyrometa.types import Params, TaskBatch


class MetaGradient(PathFunction, Protocol):
    """How the outer loop learns.

    Attributes:
        order: how much of the inner loop it differentiates through.
        unrolled_steps: how many of the last inner steps it differentiates through to that order; None for all of them.
        one_noise: whether all inner steps of a task see the same noise, rather than each its own.
    """

    @property
    def one_noise(self) -> bool:
        """Whether all inner steps of a task see the same noise."""

    def check(self, rule: Rule, learned: Mapping[str, Tensor], steps: int) -> None:
        """Refuse an inner loop that it can't learn through; asked where there are inner steps.

        Args:
            rule: the inner rule.
            learned: what the rule learns, by name.
            steps: number of inner steps K, above 0.

        Raises:
            ValueError: with the cure.
        """

    def __call__(self, path: ScoredPath) -> tuple[Tensor, Params]:
        """Query loss of each task of the path, shape ``(tasks,)``, and the gradient of their sum.

        The gradient is by the names of ``path.problem.outer``; a name that is left out has none.
        """


def loss_and_grads(
    meta_gradient: MetaGradient, runner: Runner, problem: Problem, tasks: Sequence[TaskBatch]
) -> tuple[Tensor, Params]:
    """Query loss of each task of a meta-batch, and the gradient of its mean for all that the outer loop learns.

    Args:
        meta_gradient: how the outer loop learns.
        runner: how tasks are run.
        problem: what adapts, and how.
        tasks: the meta-batch.

    Returns:
        Losses of shape ``(tasks,)`` in the order of the meta-batch, and gradients by name.
    """
    grads = {name: torch.zeros_like(leaf) for name, leaf in problem.outer.items()}
    losses: dict[int, Tensor] = {}
    for index, (some_losses, some_grads) in runner.run(problem, tasks, meta_gradient):
        for name, grad in some_grads.items():
            grads[name].add_(grad)
        losses.update(zip(index, some_losses, strict=True))
    for grad in grads.values():
        grad.div_(len(losses))
    return torch.stack([losses[i] for i in range(len(losses))]), grads


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
