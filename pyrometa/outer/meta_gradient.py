"""What a meta-gradient is: a function of an engine, a problem and tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyrometa.engine import Engine, Problem
from pyrometa.errors import NonFiniteError
from pyrometa.inner import Order, all_finite
from pyrometa.types import Params, TaskData


class MetaGradient(Protocol):
    """How the outer loop learns."""

    @property
    def order(self) -> Order:
        """How much of the inner loop it differentiates through."""

    def loss_and_grads(
        self, engine: Engine, problem: Problem, tasks: Sequence[TaskData], leaves: Mapping[str, Tensor]
    ) -> tuple[Tensor, Params]:
        """Query loss of each task, shape ``(tasks,)``, and the gradient of its mean for every leaf."""


def check_finite(losses: Tensor, grads: Params, steps: int) -> None:
    """Refuse to learn from numbers that are not finite.

    Args:
        losses: query loss of each task, shape ``(tasks,)``.
        grads: meta-gradient by name.
        steps: inner steps K, after which the tasks were scored.

    Raises:
        NonFiniteError: naming the task, or the parameter.
    """
    if all_finite([losses, *grads.values()]):
        return
    if not torch.isfinite(losses).all():
        task = int((~torch.isfinite(losses)).nonzero()[0])
        raise NonFiniteError(
            f"task {task}: the query loss after {steps} steps is {losses[task].item():g}: lower the inner rate",
            task,
            steps,
        )
    for name, grad in grads.items():
        if not torch.isfinite(grad).all():
            raise NonFiniteError(f"the meta-gradient of {name!r} is not finite", parameter=name)
