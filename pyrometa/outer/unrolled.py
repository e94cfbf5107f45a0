"""Meta-gradients by differentiating through the inner loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrometa.engine import ScoredPath
from pyrometa.inner import GradientOrder, Rule, adapt
from pyrometa.outer.gradients import Made, gradients, of_first
from pyrometa.types import Params


@dataclass(frozen=True)
class Unrolled:
    r"""The gradient of the query loss through all inner steps (MAML), or with constant inner gradients (FOMAML).

    .. math:: g = \nabla_{\phi_0} \frac{1}{B} \sum_{t=1}^B \text{score}(\phi_K^{(t)}(\phi_0), Q_t)

    Under ``first_order`` the inner gradients :math:`\nabla \text{loss}(\phi_k)` count as constants, so that
    :math:`\partial \phi_K / \partial \phi_0 = I` under SGD and no second-order graph is built. ``truncate=T`` counts
    them as constants in all but the last :math:`T` steps. ``step_weights`` :math:`w_1, \dots, w_K` learn from the
    query loss after every step (the multi-step loss of MAML++),

    .. math:: g = \nabla_{\phi_0} \frac{1}{B} \sum_{t=1}^B \sum_{k=1}^K w_k \, \text{score}(\phi_k^{(t)}(\phi_0), Q_t)

    on one noise for all steps; the loss that is reported stays the one after the last step.

    Args:
        first_order: take the inner gradients as constants.
        truncate: the number of last steps T that are differentiated through in full; None for all.
        step_weights: a weight for each of the K steps, at least 0 and 1 in sum; None for the last step alone. To
            anneal them, give ``meta.meta_gradient`` another ``Unrolled`` as training goes on.

    Raises:
        ValueError: a number out of range, ``truncate`` with ``first_order``, or (on first data) another number of
            weights than of steps.
        TypeError: an argument of the wrong kind.

    References:
        Finn, Abbeel, Levine (2017), Model-agnostic meta-learning, https://arxiv.org/abs/1703.03400;
        Shaban, Cheng, Hatch, Boots (2019), Truncated back-propagation for bilevel optimization,
        https://arxiv.org/abs/1810.10667;
        Antoniou, Edwards, Storkey (2019), How to train your MAML, https://arxiv.org/abs/1810.09502.

    Example:
        >>> Unrolled(first_order=True).order.name
        'FIRST'
        >>> Unrolled(truncate=2).unrolled_steps
        2
    """

    first_order: bool = False
    truncate: int | None = None
    step_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.first_order, bool):
            raise TypeError(f"first_order must be True or False, got {self.first_order!r}")
        _check_truncate(self.truncate, self.first_order)
        _check_weights(self.step_weights)

    @property
    def order(self) -> GradientOrder:
        """How much of the inner loop is differentiated through."""
        return GradientOrder.FIRST if self.first_order else GradientOrder.SECOND

    @property
    def unrolled_steps(self) -> int | None:
        """How many of the last inner steps are differentiated through in full; None for all of them."""
        return self.truncate

    @property
    def one_noise(self) -> bool:
        """Every inner step sees noise of its own."""
        return False

    def check(self, rule: Rule, learned: Mapping[str, Tensor], steps: int) -> None:
        """Refuse another number of weights than of steps.

        Raises:
            ValueError: with both numbers.
        """
        if self.step_weights is not None and len(self.step_weights) != steps:
            raise ValueError(
                f"step_weights has {len(self.step_weights)} weights for {steps} inner steps: give one for each step"
            )

    def __call__(self, path: ScoredPath) -> tuple[Tensor, Params]:
        """Query loss of each task, shape ``(tasks,)``, and the gradient of their sum for every leaf."""
        steps = path.problem.steps
        weights = dict(enumerate(self.step_weights, start=1)) if self.step_weights and steps else {steps: 1.0}
        weighted = []
        for step, point in enumerate(adapt(path, steps)):
            if weights.get(step) or step == steps:
                losses = path.score(point)
                weighted.append(weights.get(step, 0.0) * losses.sum())
        return losses.detach(), gradients(torch.stack(weighted).sum(), path.problem.outer)

    def of_first(self, made: Made, tasks: int) -> Made:
        """What is made of a path of which only the first tasks count."""
        return of_first(made, tasks)


def _check_truncate(truncate: object, first_order: bool) -> None:
    if truncate is None:
        return
    if isinstance(truncate, bool) or not isinstance(truncate, int):
        raise TypeError(f"truncate must be a number of steps or None, got {truncate!r}")
    if truncate < 1:
        raise ValueError(f"truncate must be at least 1, got {truncate}: first_order=True differentiates through none")
    if first_order:
        raise ValueError("truncate says how many steps count in second order, first_order that none does: drop one")


def _check_weights(weights: object) -> None:
    if weights is None:
        return
    if not isinstance(weights, tuple):
        raise TypeError(f"step_weights must be a tuple of numbers, one for each inner step, got {weights!r}")
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise TypeError(f"step_weights must be numbers, got {weight!r}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"step_weights must be finite and at least 0, got {weight!r}")
    if not math.isclose(sum(weights), 1.0, rel_tol=1e-6):
        raise ValueError(f"step_weights must be 1 in sum, got {sum(weights)!r}: divide each by their sum")
