"""Meta-gradients by differentiating through the inner loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrometa.engine import Engine, Problem
from pyrometa.inner import Order
from pyrometa.types import Params, TaskData


@dataclass(frozen=True)
class Unrolled:
    r"""The gradient of the query loss through all inner steps (MAML), or with constant inner gradients (FOMAML).

    .. math:: g = \nabla_{\phi_0} \frac{1}{B} \sum_{t=1}^B \text{score}(\phi_K^{(t)}(\phi_0), Q_t)

    Under ``first_order`` the inner gradients :math:`\nabla \text{loss}(\phi_k)` count as constants, so that
    :math:`\partial \phi_K / \partial \phi_0 = I` and no second-order graph is built.

    Args:
        first_order: take the inner gradients as constants.

    References:
        Finn, Abbeel, Levine (2017), Model-agnostic meta-learning, https://arxiv.org/abs/1703.03400.

    Example:
        >>> Unrolled(first_order=True).order.name
        'FIRST'
    """

    first_order: bool = False

    @property
    def order(self) -> Order:
        """How much of the inner loop is differentiated through."""
        return Order.FIRST if self.first_order else Order.SECOND

    def loss_and_grads(
        self, engine: Engine, problem: Problem, tasks: Sequence[TaskData], leaves: Mapping[str, Tensor]
    ) -> tuple[Tensor, Params]:
        """Query loss of each task, shape ``(tasks,)``, and the gradient of its mean for every leaf."""
        grads = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        losses: dict[int, Tensor] = {}
        for positions, chunk in engine.scores(problem, tasks, (problem.steps,), self.order):
            found = torch.autograd.grad(chunk.sum() / len(tasks), list(leaves.values()), allow_unused=True)
            for total, grad in zip(grads.values(), found, strict=True):
                if grad is not None:
                    total.add_(grad)
            losses.update(zip(positions, chunk.detach()[0], strict=True))
        return torch.stack([losses[i] for i in range(len(tasks))]), grads
